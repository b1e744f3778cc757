"""How many of all the watchdog's stacks are marked, or impossible: four threads of one program, unpinned, one runs.

Usage: python bench/soak/marked.py [SECONDS a program] [PROGRAM ...]

The programs and the judge are those of tests/python/truth.py; "chain" is a deep one in which nothing stands still.
"""

from __future__ import annotations

import pathlib
import re
import subprocess
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "tests" / "python"))
import truth

PROGRAMS = ("tree", "helper", "helpers", "nested", "chain")

CHILD = """
import os, sys, threading, time
from faultproof import faulthandler
out, seconds, path = int(sys.argv[1]), float(sys.argv[2]), sys.argv[3]
scope = {}
exec(compile(open(path).read(), "program", "exec"), scope)
for _ in range(4):
    threading.Thread(target=scope["start"], daemon=True).start()
faulthandler.dump_traceback_later(0.001, repeat=True, file=out)
time.sleep(seconds)
os._exit(0)
"""


def chain() -> tuple[str, truth.Source]:
    """12 functions, each called by the one before through six helpers: 84 frames, and nothing but calls."""
    s = truth.Source()
    for h in range(1, 7):
        s.add(f"def help{h}(f): return {'f()' if h == 1 else f'help{h - 1}(f)'}")
    truth.tree(s, "t", 12, 1, "help6({0})")
    s.add("def run():")
    s.add("    while True: t()")
    s.add("def start(): run()")
    return s.finish(), s


def measure(name: str, seconds: float) -> truth.Result:
    text, source = chain() if name == "chain" else truth.program(name)
    result = truth.Result()
    result.reasons, result.times_ns = [], []
    with tempfile.TemporaryFile() as out, tempfile.NamedTemporaryFile("w", suffix=".py") as file:
        file.write(text)
        file.flush()
        command = [sys.executable, "-c", CHILD, str(out.fileno()), str(seconds), file.name]
        subprocess.run(command, pass_fds=[out.fileno()], check=True)
        out.seek(0)
        report = out.read().decode("ascii").rpartition("Timeout (")[0]  # without the last, which may be cut
    for block in re.split(r"^(?:Thread 0x|Timeout \()", report, flags=re.M):
        frames = [m.groups() for m in map(truth.FRAME.match, block.splitlines()) if m]
        own = [f for f in frames if f[0] == "program"]
        marked = truth.MARK in block
        if not own and not marked:
            continue  # the main thread, or a header
        result["stacks"] += 1
        result["marked"] += marked
        reason = truth.judge(own, source, name)
        if reason:
            result["impossible"] += 1
            result.reasons.append(reason)
    return result


def main() -> None:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 5
    print(sys.version.split()[0], flush=True)
    for name in sys.argv[2:] or PROGRAMS:
        r = measure(name, seconds)
        share = 100 * r["marked"] / max(1, r["stacks"])
        print(
            f"{name:11} {r['stacks']:8} stacks, marked {share:6.3f} %, impossible {r['impossible']:4} {r.reasons[:1]}",
            flush=True,
        )


if __name__ == "__main__":
    main()
