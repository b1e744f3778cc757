"""How long a dump takes, side by side with the standard faulthandler in one run: prints ratios (standard / ours).

Usage: python bench/dump.py [--quick]
Alternates slices of both and takes each one's median, to /dev/null.
"""

from __future__ import annotations

import faulthandler as standard
import os
import statistics
import sys
import threading
import time

from faultproof import faulthandler as ours


def deep(n: int, action, functions):
    if n == 0:
        return action()
    return functions[n % len(functions)](n - 1, action, functions)


def chain(depth: int, count: int):
    """`count` functions that call each other down to `depth` frames."""
    functions: list = []
    for i in range(count):
        scope: dict = {}
        exec(
            f"def function_{i}(n, action, functions):\n"
            "    value = n\n    if n == 0:\n        return action()\n"
            "    return functions[n % len(functions)](n - 1, action, functions)\n",
            scope,
        )
        functions.append(scope[f"function_{i}"])
    return lambda action: functions[0](depth - 1, action, functions)


def slices(call, repeat: int) -> float:
    start = time.perf_counter()
    for _ in range(repeat):
        call()
    return (time.perf_counter() - start) / repeat


def compare(name: str, run, repeat: int, rounds: int) -> None:
    with open(os.devnull, "wb") as file:
        fd = file.fileno()
        times: dict[str, list[float]] = {"standard": [], "ours": []}

        def measure():
            for _ in range(rounds):
                times["standard"].append(slices(lambda: standard.dump_traceback(fd, all_threads=run.all), repeat))
                times["ours"].append(slices(lambda: ours.dump_traceback(fd, all_threads=run.all), repeat))

        run(measure)
    a, b = (statistics.median(times[k]) * 1e6 for k in ("standard", "ours"))
    print(f"{name:38} standard {a:9.1f} us   ours {b:8.2f} us   ratio {a / b:5.1f}")


def main() -> None:
    quick = "--quick" in sys.argv
    rounds = 5 if quick else 31
    ours.enable(2)
    print(sys.version.split()[0])
    for name, count in (("50 frames of 50 functions", 50), ("50 frames of one function", 1)):
        run = chain(48, count)
        run.all = False
        compare(name, run, 50, rounds)
    stop = threading.Event()
    ready = threading.Barrier(101)

    def wait():
        ready.wait()
        stop.wait()

    body = chain(44, 44)
    for _ in range(100):
        threading.Thread(target=body, args=(wait,), daemon=True).start()
    ready.wait()

    def plain(action):
        action()

    plain.all = True
    compare("100 threads of 50 frames", plain, 2, rounds)
    stop.set()


if __name__ == "__main__":
    main()
