"""Compares the text of a frame at every code position of the standard library with the interpreter's own.

Usage: python bench/soak/traceback_positions.py [modulus remainder]: of the files only each
modulus-th one.  Prints what was compared; the exit status says whether there were differences.
"""

from __future__ import annotations

import linecache
import os
import sys
import sysconfig
import warnings
from collections import Counter

import faultproof.traceback as ours


def library_files(modulus: int, remainder: int) -> list[str]:
    """The standard library's source files, without installed packages."""
    found = []
    for folder, folders, names in os.walk(sysconfig.get_path("stdlib")):
        folders[:] = sorted(name for name in folders if name not in ("site-packages", "__pycache__", "dist-packages"))
        found.extend(os.path.join(folder, name) for name in sorted(names) if name.endswith(".py"))
    return [path for number, path in enumerate(found) if number % modulus == remainder]


def compile_file(path: str):
    try:
        with open(path, "rb") as file:
            return compile(file.read(), path, "exec", dont_inherit=True)
    except (SyntaxError, ValueError, UnicodeDecodeError):
        return None


def compare_file(path: str, counts: Counter) -> None:
    """Each different position once: the text depends on nothing else."""
    code = compile_file(path)
    if code is None:
        counts["files that don't compile"] += 1
        return
    seen = set()
    for inner, offset, position in ours._positions(code):
        key = (position, inner.co_name)
        if key in seen:
            continue
        seen.add(key)
        counts["positions"] += 1
        text = ours._traceback.caret_text(inner, offset)
        if text is None:
            counts["left to the interpreter"] += 1
        elif text != ours._standard_text(inner, position):
            counts["differences"] += 1
            print(f"{path}: {position}\n{text}\n{ours._standard_text(inner, position)}")
    linecache.clearcache()


def main() -> int:
    warnings.simplefilter("ignore")
    modulus, remainder = (int(number) for number in sys.argv[1:3]) if len(sys.argv) > 2 else (1, 0)
    counts: Counter = Counter()
    for path in library_files(modulus, remainder):
        counts["files"] += 1
        compare_file(path, counts)
    print(sys.version.split()[0], dict(counts))
    return 1 if counts["differences"] else 0


if __name__ == "__main__":
    sys.exit(main())
