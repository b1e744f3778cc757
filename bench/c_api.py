"""The C API's speed as ratios, each pair measured side by side in one run: python bench/c_api.py [--json].

Needs faultproof installed (or on PYTHONPATH), a C compiler and the interpreter's headers, internal ones included.
"""

from __future__ import annotations

import faulthandler
import importlib.util
import json
import pathlib
import random
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time

import faultproof

HERE = pathlib.Path(__file__).resolve().parent
DEPTH, STACKS, ROUNDS = 50, 9, 21


def build():
    """The extension with the loops, compiled for this interpreter."""
    folder = pathlib.Path(tempfile.mkdtemp())
    paths = sysconfig.get_paths()
    includes = {paths["include"], paths["platinclude"]}
    flags = [f"-I{p}{s}" for p in includes for s in ("", "/internal")] + [f"-I{faultproof.get_include()}"]
    target = folder / "c_api_bench.so"
    source = str(HERE / "c_api_bench.c")
    command = ["cc", "-O3", "-shared", "-fPIC", "-w", "-DPy_BUILD_CORE_MODULE", *flags, source, "-o", str(target)]
    subprocess.run(command, check=True)
    spec = importlib.util.spec_from_file_location("c_api_bench", target)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def frames_of(n: int, seed: int = 0):
    """n functions that call each other, as different as a program's: each of its own code object, name and size.

    Functions of one size lie at one distance from each other, which may fill a few sets of the cache and leave others
    empty: one stack more or less is then no rule for another.
    """
    draw = random.Random(seed)
    source = [
        f"def f{i}_{'x' * draw.randrange(20)}(do):\n"
        + "".join(f"    v{j} = do\n" for j in range(draw.randrange(1, 12)))
        + f"    return following[{i}](do)"
        for i in range(n)
    ]
    names: dict = {}
    exec(compile("\n".join(source), "some/where/module.py", "exec"), names)
    functions = [value for name, value in names.items() if name.startswith("f")]
    names["following"] = [*functions[1:], lambda do: do()]
    return functions[0]


def ratio(a: str, b: str, one) -> tuple:
    """one(a) / one(b) over alternating rounds, the best of each: (ratio, ns of a, ns of b).

    The best counts: a neighbour on the same core slows the one that computes more than the one that waits for memory.
    """
    best = [min(column) for column in zip(*[(one(a), one(b)) for _ in range(ROUNDS)])]
    return best[0] / best[1], *best


def summary(measured: list) -> dict:
    """The stack whose ratio is the median, and the ratios of all."""
    measured.sort()
    middle, a, b = measured[len(measured) // 2]
    ends = [round(measured[end][0], 2) for end in (0, -1)]
    return {"ratio": round(middle, 2), "from, to": ends, "ns": [round(a), round(b)]}


PAIRS = {
    "compact : plain walk": ("compact", "plain"),
    "compact, own : plain walk": ("compact_own", "plain"),
    "compact, no session : plain walk": ("compact_no_session", "plain"),
    "public API : compact": ("public", "compact"),
    "public API : compact, no session": ("public", "compact_no_session"),
    "standard dump : FrameInfo": ("standard", "frame_info"),
}


def measure(bench) -> dict:
    null = open("/dev/null", "w")  # noqa: SIM115 (open until the process ends)
    out: dict = {"version": sys.version.split()[0], "guard": True}

    def one(what: str) -> float:
        if what == "standard":
            start = time.perf_counter_ns()
            for _ in range(20):
                faulthandler.dump_traceback(null, all_threads=False)
            return (time.perf_counter_ns() - start) / 20
        calls = {"plain": 2000, "public": 300, "frame_info": 100}.get(what, 1000)
        return bench.run(what, calls, DEPTH)[0]

    measured: dict = {name: [] for name in PAIRS}

    def inside():
        frame = sys._getframe()
        while frame is not None:  # frame objects made: warm
            frame = frame.f_back
        for name, (a, b) in PAIRS.items():
            measured[name].append(ratio(a, b, one))

    stacks = [frames_of(DEPTH, seed) for seed in range(STACKS)]  # all alive, so that none lies where another did
    for outermost in stacks:
        outermost(inside)
    return {**out, **{name: summary(rows) for name, rows in measured.items()}}


def with_threads(bench, n: int) -> dict:
    """The compact collector and FrameInfo with n other threads, against none: the ratio should be 1."""
    stop, stack = threading.Event(), frames_of(DEPTH)

    def once() -> dict:
        got = {}

        def inside():
            for what in ("compact", "compact_own", "frame_info"):
                got[what] = min(bench.run(what, 200, DEPTH)[0] for _ in range(41))

        stack(inside)
        return got

    alone = once()
    threads = [threading.Thread(target=stop.wait) for _ in range(n)]
    for t in threads:
        t.start()
    many = once()
    stop.set()
    for t in threads:
        t.join()
    return {k: round(many[k] / alone[k], 2) for k in alone}


def main() -> int:
    bench = build()
    bench.guard()
    out = measure(bench)
    out["200 threads : none"] = with_threads(bench, 200)
    if "--json" in sys.argv:
        print(json.dumps(out))
        return 0
    print(out.pop("version"))
    for name, value in out.items():
        print(f"  {name:36} {value}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
