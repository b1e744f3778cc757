"""What the start costs: FAULTPROOF=1 against nothing, install() and the import of the package, in microseconds.

Usage: python bench/start.py PYTHON [RUNS]   PYTHON: an interpreter with faultproof installed by pip
Whole processes are measured from outside, in turn, by the CPU time of the finished child; what happens inside by the
process itself, in CPU time too.  Medians.
"""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys

INSIDE = """
import time, sys, {first}
a = time.process_time()
import faultproof
b = time.process_time()
faultproof.{call}()
c = time.process_time()
print((b - a) * 1e6, (c - b) * 1e6)
"""


def cpu(command: list[str], environment: dict[str, str]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, env=environment, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) * 1e6


def starts(python: str, runs: int) -> None:
    plain = {name: value for name, value in os.environ.items() if not name.startswith("FAULTPROOF")}
    pairs = []
    for _ in range(runs):
        pairs.append([cpu([python, "-c", "pass"], {**plain, **more}) for more in ({}, {"FAULTPROOF": "1"})])
    without, with_it = (statistics.median(column) for column in zip(*pairs))
    added = statistics.median(b - a for a, b in pairs)
    print(f"python -c pass: {without:.0f}, FAULTPROOF=1: {with_it:.0f}, added: {added:.0f} ({added / without:.0%})")


def inside(python: str, runs: int, call: str, first: str) -> None:
    command = [python, "-c", INSIDE.format(call=call, first=first)]
    rows = [[float(word) for word in subprocess.check_output(command, text=True).split()] for _ in range(runs)]
    imported, called = (statistics.median(column) for column in zip(*rows))
    print(f"import faultproof: {imported:.0f}, {call}(): {called:.0f}, after import {first}")


def main() -> None:
    python, runs = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 40
    starts(python, runs)
    inside(python, runs, "enable", "faulthandler")
    inside(python, runs, "install", "traceback, faulthandler")
    inside(python, runs, "install", "faulthandler")


if __name__ == "__main__":
    main()
