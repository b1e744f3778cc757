"""2,000 greenlets that switch all the time under the watchdog: which of its stacks are impossible, marked, or empty.

Used by test_truth.py and by bench/soak/greenlets.py.  Needs the package greenlet.
"""

from __future__ import annotations

import collections
import re
import subprocess
import sys
import tempfile

import truth

KINDS = 8  # of greenlets: their functions' names differ
DEPTH = 3  # functions between the greenlet's first one and the switch
# "hub": each greenlet switches back to the one that has started it; "ring": each to the next
WAYS = ("hub", "ring")

CHILD = """
import os, sys, threading, time, greenlet
from faultproof import faulthandler
out, seconds, interval, number = int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3]), int(sys.argv[5])
sys.setrecursionlimit(100 * number)
scope = {"number": number, "current": -1}
exec(compile(open(sys.argv[4]).read(), "program", "exec"), scope)
running = threading.Event()
def main():
    scope["hub"] = greenlet.getcurrent()
    scope["all"] = [greenlet.greenlet(scope["body%d" % (i % KINDS)]) for i in range(number)]
    running.set()
    scope["run"]()
threading.Thread(target=main, daemon=True).start()
running.wait()
end = time.monotonic() + seconds
faulthandler.dump_traceback_later(interval, repeat=True, file=out)
while time.monotonic() < end:
    time.sleep(0.1)
os._exit(0)
""".replace("KINDS", str(KINDS))


def program(way: str) -> str:
    lines = []
    for k in range(KINDS):
        lines += [f"def f{k}_{d}(): " + (f"f{k}_{d - 1}()" if d else "switch()") for d in range(DEPTH)]
        lines += [f"def body{k}():", "    hub.switch()", f"    while True: f{k}_{DEPTH - 1}()"]
    if way == "hub":
        lines += ["def switch(): hub.switch()"]
        lines += ["def run():", "    while True:", "        for g in all: g.switch()"]
    else:
        lines += [
            "def switch():",
            "    global current",
            "    current = (current + 1) % number",
            "    all[current].switch()",
        ]
        lines += ["def run():", "    for g in all: g.switch()", "    switch()"]
    return "\n".join(lines) + "\n"


# The same with few of them and no thread, for a test that looks at each instruction of start().
STEPPED = (
    "import greenlet\n"
    + program("hub")
    + """
hub = greenlet.getcurrent()
all = [greenlet.greenlet(globals()["body%d" % i]) for i in range(4)]
for g in all: g.switch()
def start():
    run()
"""
)


def judge(names: list[str]) -> str | None:
    """Why the names of one stack, most recent first, are impossible; None if they can be."""
    own = [name for name in names if re.fullmatch(r"(f\d_|body)\d", name)]
    if not own:
        return None
    kind = re.sub(r"\D*(\d).*", r"\1", own[0])
    whole = [f"f{kind}_{d}" for d in range(DEPTH)] + [f"body{kind}"]
    # a frame on top may have returned or not yet been called; what is below a greenlet's first function isn't its own
    return None if own == whole[len(whole) - len(own) :] else f"{own} of {whole}"


def run(way: str, seconds: float, interval: float = 0.0005, number: int = 2000) -> truth.Result:
    result = truth.Result()
    result.reasons, result.times_ns = [], []
    with tempfile.TemporaryFile() as out, tempfile.NamedTemporaryFile("w", suffix=".py") as file:
        file.write(program(way))
        file.flush()
        arguments = [str(out.fileno()), str(seconds), str(interval), file.name, str(number)]
        done = subprocess.run([sys.executable, "-c", CHILD, *arguments], pass_fds=[out.fileno()], timeout=seconds + 120)
        assert done.returncode == 0, f"{way}: the process ended with {done.returncode}"
        out.seek(0)
        text = out.read().decode("ascii").rpartition("Timeout (")[0]  # without the last, which may be cut
    for block in re.split(r"^(?:Thread 0x|Timeout \()", text, flags=re.M):
        lines = block.splitlines()
        names = [m[3] for m in map(truth.FRAME.match, lines) if m]
        marked = truth.MARK in lines
        if "program" not in block and not marked:
            continue  # the main thread, or a header
        result["stacks"] += 1
        result["marked"] += marked
        result["empty"] += marked and not names
        reason = judge(names)
        if reason:
            result["impossible"] += 1
            result.reasons.append(reason)
    return result


def report(way: str, result: truth.Result) -> str:
    share = {key: 100 * result[key] / max(1, result["stacks"]) for key in ("marked", "empty")}
    return (
        f"{way:5} {result['stacks']:8} stacks, marked {share['marked']:6.3f} %, empty {share['empty']:6.3f} %, "
        f"impossible {result['impossible']:4} {collections.Counter(result.reasons).most_common(1)}"
    )


def main() -> None:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 5
    print(sys.version.split()[0], flush=True)
    for way in sys.argv[2:] or WAYS:
        print(report(way, run(way, seconds)), flush=True)


if __name__ == "__main__":
    main()
