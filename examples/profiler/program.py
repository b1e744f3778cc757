"""The program that is profiled in docs/c-api.md, a call tree in two threads: python program.py OUT [SECONDS [HZ]]

Without an output file it only runs, for another profiler to look at.
"""

from __future__ import annotations

import sys
import threading
import time


def spin(n: int) -> int:
    total = 0
    for i in range(n):
        total += i * i
    return total


def parse(n: int) -> int:
    return sum(spin(2000) for _ in range(n))


def render(n: int) -> int:
    return template(n) + spin(2000 * n)


def template(n: int) -> int:
    return spin(2000 * n)


class Server:
    def handle(self) -> int:
        return parse(3) + render(2) + self.log()

    def log(self) -> int:
        return spin(2000)


def work(end: float) -> None:
    server = Server()
    while time.monotonic() < end:
        server.handle()


def main(seconds: float) -> None:
    end = time.monotonic() + seconds
    threads = [threading.Thread(target=work, args=(end,)) for _ in range(2)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()


if __name__ == "__main__":
    seconds = float(sys.argv[2]) if len(sys.argv) > 2 else 5
    if len(sys.argv) > 1 and sys.argv[1] != "-":
        import profiler

        profiler.start(sys.argv[1], int(sys.argv[3]) if len(sys.argv) > 3 else 500)
        main(seconds)
        print(profiler.stop())
    else:
        main(seconds)
