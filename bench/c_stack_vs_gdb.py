"""Compares our C stacks with gdb's: the same process, the same registers.

    python bench/c_stack_vs_gdb.py --sampler BUILD/tests/c/libfp_sampler.so [--samples 1000] [--python PYTHON]

A preloaded library samples its process by SIGPROF and writes what our unwinder finds from the interrupted registers.
gdb stops at each of these signals before it is delivered, so that it unwinds from the same registers.  PYTHON (default:
this one) has to have numpy; the second program is C++ with exceptions, -O2 and no frame pointers.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

HERE = Path(__file__).resolve().parent
FRAMES_MAX = 256  # as in the sampler

# Runs inside gdb.  Inlined and tail-called frames have no return address of their own.
IN_GDB = """
import gdb
def pcs():
    found, frame = [], gdb.newest_frame()
    while frame is not None and len(found) < {frames_max}:
        if frame.type() not in (gdb.INLINE_FRAME, gdb.TAILCALL_FRAME):
            found.append(frame.pc())
        frame = frame.older()
    return found
with open({path!r}, "w") as file:
    for i in range({samples} + 1): # the last one is not delivered
        gdb.execute("continue" if i else "run", to_string=True)
        if gdb.selected_inferior().pid == 0:
            break
        here = [int(gdb.parse_and_eval("(unsigned long)" + r)) for r in ("$rip", "$rsp")]
        print(*(hex(x) for x in here + pcs()), file=file)
    gdb.execute("kill", to_string=True)
"""

SETTINGS = """
set pagination off
set confirm off
set debuginfod enabled off
set disable-randomization off
set backtrace past-main on
set backtrace past-entry on
set print thread-events off
handle SIGPROF stop print pass
handle SIGSEGV nostop noprint pass
handle SIGUSR1 nostop noprint pass
"""


def sample(command, args):
    with tempfile.TemporaryDirectory() as folder:
        ours, theirs, script = Path(folder, "ours"), Path(folder, "gdb"), Path(folder, "script")
        script.write_text(
            SETTINGS
            + f"set environment FP_SAMPLER_OUT {ours}\nset environment FP_SAMPLER_US {args.interval}\n"
            + "".join(f"set environment {n} 1\n" for n in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"))
            + f"set exec-wrapper env LD_PRELOAD={args.sampler}\n"
            + "python\n"
            + IN_GDB.format(path=str(theirs), samples=args.samples, frames_max=FRAMES_MAX)
            + "end\n"
        )
        gdb = ["gdb", "-nx", "-q", "-batch", "-x", str(script), "--args", *command]
        done = subprocess.run(
            gdb, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        if not theirs.exists() or not ours.exists():
            sys.exit(f"gdb has written no stacks:\n{done.stdout[-3000:]}")
        read = [[int(x, 16) for x in line.split()] for line in ours.read_text().splitlines()]
        return read, [[int(x, 16) for x in line.split()] for line in theirs.read_text().splitlines()]


def verdict(ours, gdb):
    if ours == gdb:
        return "equal"
    short, long_ = sorted((ours, gdb), key=len)
    if long_[: len(short)] == short:
        return "ours ends sooner" if short is ours else "gdb's ends sooner"
    return "differs"


def compare(name, command, args):
    ours, theirs = sample(command, args)
    by_place = {}
    for o in ours:
        by_place.setdefault((o[0], o[1]), []).append(o[2:])
    counts, shown, lost = Counter(), 0, 0
    for t in theirs:
        places = by_place.get((t[0], t[1]))
        if not places:
            lost += 1
            continue
        mine = places.pop(0)
        result = verdict(mine, t[2:])
        counts[result] += 1
        if result != "equal" and shown < args.show:
            shown += 1
            print(f"  {result}:\n    ours {' '.join(map(hex, mine))}\n    gdb  {' '.join(map(hex, t[2:]))}")
    total = sum(counts.values())
    ends = Counter(o[-1] for o in ours if len(o) < FRAMES_MAX + 2)
    rooted = 100 * max(ends.values(), default=0) / max(len(ours), 1)
    frames = sum(len(t) - 2 for t in theirs) / max(len(theirs), 1)
    rest = ", ".join(f"{k}: {n}" for k, n in counts.most_common() if k != "equal") or "no difference"
    print(
        f"{name}: {counts['equal']} of {total} stacks equal to gdb's ({100 * counts['equal'] / max(total, 1):.2f} %), "
        f"{frames:.1f} frames on average; {rest}; {lost} not paired; "
        f"{rooted:.1f} % of ours end in the same root"
    )
    return total > 0 and counts["equal"] >= 0.99 * total


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sampler", required=True, type=lambda p: str(Path(p).resolve()))
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--interval", type=int, default=4000, help="microseconds of CPU time between samples")
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--show", type=int, default=0, help="print so many of the stacks that differ")
    parser.add_argument("--only", choices=["numpy", "c++"])
    args = parser.parse_args()
    good = True
    rounds = str(1000 * args.samples)
    if args.only != "c++":
        good &= compare("numpy", [args.python, str(HERE / "numpy_workload.py"), rounds], args)
    if args.only != "numpy":
        with tempfile.TemporaryDirectory() as folder:
            program = os.path.join(folder, "workload")
            flags = ["-O2", "-fomit-frame-pointer", "-std=c++17"]
            subprocess.run(["g++", *flags, "-o", program, str(HERE / "workload.cpp")], check=True)
            good &= compare("C++", [program, rounds], args)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
