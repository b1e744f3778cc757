"""How long a C stack takes, from the call to the text, beside the standard module in the same run (3.14 and later).

    PYTHONPATH=... python bench/c_stack_speed.py

32 frames, to /dev/null; then the same with a thousand more mappings in the process's map.
"""

import faulthandler as standard
import mmap
import os
import tempfile
import time

from faultproof import faulthandler as ours

CALLS = 300


def deep(n, function):
    """Calls the function below n frames of the C library's sort, each with some of the interpreter's own."""

    class Item:
        def __lt__(self, other):
            deep(n - 1, function)
            return False

    if n == 0:
        function()
    else:
        sorted([Item(), Item()])


def microseconds(show, fd):
    times = []

    def measure():
        for _ in range(CALLS):
            start = time.perf_counter_ns()
            show(fd)
            times.append(time.perf_counter_ns() - start)

    deep(8, measure)
    return sorted(times)[CALLS // 2] / 1000


def compare(what, fd):
    mine = microseconds(ours._c_stack, fd)
    text = f"{what}: {mine:.0f} us"
    if hasattr(standard, "dump_c_stack"):
        theirs = microseconds(standard.dump_c_stack, fd)
        text += f", the standard module {theirs:.0f} us ({theirs / mine:.1f} times)"
    print(text)


def main():
    ours.enable()  # for the fast reader
    fd = os.open(os.devnull, os.O_WRONLY)
    compare("32 frames", fd)
    with tempfile.TemporaryFile() as file:
        file.truncate(mmap.PAGESIZE)
        maps = [mmap.mmap(file.fileno(), mmap.PAGESIZE, prot=(mmap.PROT_READ, 3)[i % 2]) for i in range(1000)]
        compare(f"32 frames, {len(maps)} more mappings", fd)


if __name__ == "__main__":
    main()
