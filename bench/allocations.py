"""What the wrappers around CPython's allocators cost, in ns an operation.

plain: not enabled.  enabled: before any thread started, so that the raw domain alone is wrapped.  a thread waits: one
that ran before and has no alternate stack yet, so that memory and objects are wrapped too.

Usage: python bench/allocations.py
"""

from __future__ import annotations

import os
import statistics
import sys
import threading
import time

from faultproof import faulthandler

OPERATIONS = {
    "an object, made and freed": "for i in r: object()",
    "a list of three": "for i in r: [i, i, i]",
    "a float": "for i in r: x * 1.5",
    "2 KB of bytes": "for i in r: bytes(2048)",
}
REPEAT = 200000


def measure() -> dict[str, float]:
    times = {}
    for name, code in OPERATIONS.items():
        scope: dict = {}
        exec(f"def run(r, x=2.5):\n    {code}", scope)
        slices = []
        for _ in range(9):
            start = time.perf_counter()
            scope["run"](range(REPEAT))
            slices.append((time.perf_counter() - start) / REPEAT * 1e9)
        times[name] = statistics.median(slices)
    return times


def main() -> None:
    fd = os.open(os.devnull, os.O_WRONLY)
    print(sys.version.split()[0])
    rounds: dict[str, list[dict[str, float]]] = {"plain": [], "enabled": [], "a thread waits": []}
    for _ in range(5):
        rounds["plain"].append(measure())
        faulthandler.enable(fd)
        rounds["enabled"].append(measure())
        faulthandler.disable()
        stop = threading.Event()
        thread = threading.Thread(target=stop.wait)
        thread.start()
        faulthandler.enable(fd)
        rounds["a thread waits"].append(measure())
        stop.set()
        thread.join()
        faulthandler.disable()
    for name in OPERATIONS:
        row = {state: statistics.median(times[name] for times in seen) for state, seen in rounds.items()}
        print(f"{name:28}" + "".join(f"{state} {ns:6.1f}   " for state, ns in row.items()))


if __name__ == "__main__":
    main()
