"""Formats a million exceptions and watches the resident memory.

Usage: python bench/soak/traceback_memory.py [count].  The exit status says whether memory grew by more than 256 KB in
the second half: allocators take a while to have all that they will ever need.
"""

from __future__ import annotations

import io
import linecache
import sys

import faultproof.traceback as ours


def resident() -> int:
    """Bytes of this process's memory that are resident."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096


def fail(number: int, depth: int):
    if depth:
        return fail(number, depth - 1)
    try:
        return {}[number]
    except KeyError as error:
        raise ValueError(f"number {number}") from error


def step(number: int) -> None:
    """One exception, printed as text, as bytes and to a file; each hundredth comes from code of its own.

    Of 200 kinds: free-threaded builds keep the constants of all code for ever.
    """
    try:
        if number % 100 == 0:
            kind = number % 20000
            name = f"<generated {kind}>.py"
            linecache.cache[name] = (1, None, [f"value = {kind} / 0\n"], name)
            exec(compile(f"value = {kind} / 0", name, "exec"), {})
        fail(number, number % 5)
    except (ValueError, ZeroDivisionError):
        ours.format_exc()
        ours.format_exc_bytes()
        ours.print_exc(file=io.StringIO())


def main() -> int:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    start = 0
    for number in range(count):
        step(number)
        if number == count // 2:
            start = resident()
        if number % (count // 10) == 0:
            print(f"{number:9}  {resident() / 2**20:8.2f} MB", flush=True)
    growth = resident() - start
    print(f"{sys.version.split()[0]}: {count} exceptions, {growth / 2**20:+.2f} MB in the second half")
    return 1 if growth > 2**18 else 0


if __name__ == "__main__":
    sys.exit(main())
