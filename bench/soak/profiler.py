"""Soak: the example profiler on a hostile program, each stack checked.  python bench/soak/profiler.py [SECONDS [HZ]]

8 threads compile, call and drop functions whose names are numbered; a stack is possible only if the numbers of a chain
f_N -> g_N -> h_N agree and each function is called by the one that calls it.  Also: what sampling at 100 Hz costs.
Exit code 0: no crash, no impossible stack.  Needs a C compiler and the interpreter's headers.
"""

from __future__ import annotations

import json
import os
import pathlib
import re
import subprocess
import sys
import sysconfig
import tempfile
import textwrap
import time

import faultproof

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent

HOSTILE = """
import collections, sys, threading, time, types
import profiler

out, seconds, hz = sys.argv[1], float(sys.argv[2]), int(sys.argv[3])
end = time.monotonic() + seconds

def chain_by_compile(n):
    names = {}
    source = f'''
def h_{n}(x):
    return sum(range(x))
def g_{n}(x):
    return h_{n}(x) + h_{n}(x)
def f_{n}(x):
    return g_{n}(x)
'''
    exec(compile(source, f"file_{n}.py", "exec"), names)
    return names[f"f_{n}"]

def template(x):
    return sum(range(x))

def chain_by_replace(n):
    code = template.__code__.replace(co_name=f"t_{n}", co_filename=f"file_{n}.py")
    function = types.FunctionType(code, {"sum": sum, "range": range})
    function(400)
    return function

def generate(n):
    yield chain_by_replace(n)

def worker(start):
    n, kept = start, collections.deque(maxlen=30)  # some live for a millisecond, some end at once
    while time.monotonic() < end:
        n += 1
        f = chain_by_compile(n)
        f(1000)
        if n % 2:
            kept.append(f)
        for _ in range(5):
            n += 1
            kept.append(chain_by_replace(n))
        for _ in generate(n):
            pass

profiler.start(out, hz, True)
threads = [threading.Thread(target=worker, args=(i * 10**9,)) for i in range(8)]
for t in threads: t.start()
for t in threads: t.join()
import json
print(json.dumps(profiler.stop()))
"""

# A fixed amount of work, timed by itself: short slices with the profiler and without, in turn.
COST = """
import json, statistics, sys, time
sys.path.insert(0, sys.argv[2])
import profiler, program

server = program.Server()

def once(sampled):
    if sampled: profiler.start(sys.argv[1], 100)
    start = time.process_time()
    for _ in range(200): server.handle()
    used = time.process_time() - start
    if sampled: profiler.stop()
    return used

for _ in range(5): once(False)
ratios = []
for i in range(int(sys.argv[3])):
    # Neighbours share what else runs on the machine; which comes first changes, as a clock that drifts favours one.
    first = once(i % 2)
    second = once(1 - i % 2)
    ratios.append(first / second if i % 2 else second / first)
# the error of a median: 1.25 deviations of a normal distribution by the root of the number
deviation = (statistics.quantiles(ratios, n=4)[2] - statistics.quantiles(ratios, n=4)[0]) / 1.35
error = 1.25 * deviation / len(ratios) ** 0.5
print(json.dumps({"percent": round(100 * (statistics.median(ratios) - 1), 2), "error": round(100 * error, 2)}))
"""

CALLERS = {"h": "g", "g": "f", "f": "worker", "t": "chain_by_replace"}
CALLERS |= {"chain_by_compile": "worker", "generate": "worker"}
NAME = re.compile(r"^(?:.*\.)?(?:(?P<kind>[fght])_(?P<n>\d+)|(?P<name>\w+|<\w+>)) \((?P<file>.*)\)$")


def build(folder: pathlib.Path) -> None:
    paths = sysconfig.get_paths()
    includes = [f"-I{p}" for p in {paths["include"], paths["platinclude"], faultproof.get_include()}]
    source = ROOT / "examples" / "profiler" / "profiler.c"
    command = ["cc", "-O2", "-shared", "-fPIC", *includes, str(source), "-o", str(folder / "profiler.so")]
    subprocess.run(command, check=True)


def wrong(stack: str) -> str | None:
    """Why a stack, root first, can't have been; None if it can."""
    above: tuple[str, str] | None = None
    for frame in stack.split(";"):
        if frame == "[freed]":
            above = None
            continue
        m = NAME.match(frame)
        if m is None:
            return f"no such frame: {frame}"
        kind, n = m["kind"] or m["name"], m["n"] or ""
        if m["kind"] and m["file"] != f"file_{n}.py":
            return f"file of another code object: {frame}"
        called = above is not None and kind in CALLERS
        if called and (CALLERS[kind] != above[0] or (kind in "gh" and above[1] != n)):
            return f"{frame} called from {above}"
        above = kind, n
    return None


def run(folder: pathlib.Path, code: str, *args: object) -> tuple[int, dict, str]:
    package = pathlib.Path(faultproof.__file__).parent.parent
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(package)])}
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, args)]
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    return done.returncode, json.loads(done.stdout) if done.returncode == 0 else {}, done.stderr


def main() -> int:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 60
    hz = int(sys.argv[2]) if len(sys.argv) > 2 else 1000
    folder = pathlib.Path(tempfile.mkdtemp())
    build(folder)
    start = time.monotonic()
    code, counts, errors = run(folder, HOSTILE, folder / "collapsed", seconds, hz)
    if code != 0:
        print(f"{sys.version.split()[0]}: DIED with {code} after {time.monotonic() - start:.0f} s: {errors[-500:]}")
        return 1
    stacks = [line.rpartition(" ") for line in (folder / "collapsed").read_text().splitlines()]
    bad = [(why, stack) for stack, _, _ in stacks if (why := wrong(stack)) is not None]
    cost: dict = {}
    if seconds >= 10:
        cost = run(folder, COST, folder / "cost", ROOT / "examples" / "profiler", 101)[1]
    print(
        f"{sys.version.split()[0]}: {seconds:.0f} s at {hz} Hz: {counts}, {len(stacks)} different stacks, "
        f"impossible: {len(bad)}, cost at 100 Hz: {cost.get('percent')} % +- {cost.get('error')}"
    )
    for why, stack in bad[:5]:
        print(f"  {why}\n    {stack}")
    return 1 if bad or not counts["samples"] else 0


if __name__ == "__main__":
    sys.exit(main())
