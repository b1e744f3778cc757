"""The C API's speed as ratios, each pair measured side by side in one run: python bench/c_api.py [--json].

Needs faultproof installed (or on PYTHONPATH), a C compiler and the interpreter's headers, internal ones included.
"""

from __future__ import annotations

import faulthandler
import importlib.util
import json
import pathlib
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time

import faultproof

HERE = pathlib.Path(__file__).resolve().parent
DEPTH, ROUNDS = 50, 41


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


def frames_of(n: int):
    """n functions, each of its own code object, so that nothing is shared between frames."""
    source = "\n".join(f"def f{i}(do):\n    value = do\n    return f{i + 1}(value)" for i in range(n))
    names: dict = {}
    exec(compile(f"{source}\ndef f{n}(do):\n    return do()", "some/where/module.py", "exec"), names)
    return names["f0"]


def ratio(a: str, b: str, one) -> dict:
    """one(a) / one(b) over alternating rounds: by the best of each, and the median of the rounds.

    The best counts: a neighbour on the same core slows the one that computes more than the one that waits for memory.
    """
    pairs = [(one(a), one(b)) for _ in range(ROUNDS)]
    best = [min(column) for column in zip(*pairs)]
    median = statistics.median(x / y for x, y in pairs)
    return {"ratio": round(best[0] / best[1], 2), "median": round(median, 2), "ns": [round(x) for x in best]}


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

    def inside():
        sys._getframe().f_back  # noqa: B018
        frame = sys._getframe()
        while frame is not None:  # frame objects made: warm
            frame = frame.f_back
        for name, a, b in (
            ("compact : plain walk", "compact", "plain"),
            ("compact, own : plain walk", "compact_own", "plain"),
            ("compact, no session : plain walk", "compact_no_session", "plain"),
            ("public API : compact", "public", "compact"),
            ("public API : compact, no session", "public", "compact_no_session"),
            ("standard dump : FrameInfo", "standard", "frame_info"),
        ):
            out[name] = ratio(a, b, one)

    frames_of(DEPTH)(inside)
    return out


def with_threads(bench, n: int) -> dict:
    """The compact collector and FrameInfo with n other threads, against none: the ratio should be 1."""
    stop = threading.Event()

    def once() -> dict:
        got = {}

        def inside():
            for what in ("compact", "compact_own", "frame_info"):
                got[what] = min(bench.run(what, 200, DEPTH)[0] for _ in range(41))

        frames_of(DEPTH)(inside)
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
