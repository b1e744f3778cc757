"""Compares format_tb() and format_list(extract_tb()) with the interpreter's own at every position of its library.

Usage: python bench/soak/traceback_positions.py [modulus remainder]: of the files only each
modulus-th one.  Prints what was compared; the exit status says whether there were differences.

No code of the library runs: a function that only raises gets the name, the file and the line table of each code
object in turn, and its traceback is then moved to each of that code's instructions.
"""

from __future__ import annotations

import dis
import linecache
import os
import sys
import sysconfig
import traceback as standard
import types
import warnings
from collections import Counter

import faultproof.traceback as ours

LINE_TABLE = "co_linetable" if sys.version_info >= (3, 10) else "co_lnotab"
NOP = bytes([dis.opmap["NOP"], 0])


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
    except (SyntaxError, ValueError, OSError):
        return None


def raising():
    raise Exception


def frame_of(code: types.CodeType) -> types.FrameType:
    """A frame whose code has that code's file, name and line table."""
    own = raising.__code__
    parts = {LINE_TABLE: getattr(code, LINE_TABLE), "co_firstlineno": code.co_firstlineno, "co_name": code.co_name}
    if hasattr(code, "co_qualname"):
        parts["co_qualname"] = code.co_qualname
    missing = max(0, len(code.co_code) - len(own.co_code)) // 2
    stand_in = own.replace(co_filename=code.co_filename, co_code=own.co_code + NOP * missing, **parts)
    try:
        types.FunctionType(stand_in, {"__name__": "library"})()
    except Exception as error:
        frame = error.__traceback__.tb_next.tb_frame
        assert frame.f_code is stand_in
        return frame
    raise AssertionError("the stand-in returned")


def places(code: types.CodeType):
    """Each different place once, as (offset, line): the text depends on nothing else."""
    seen = set()
    if hasattr(code, "co_positions"):
        for index, position in enumerate(code.co_positions()):
            if position[0] is not None and position not in seen:
                seen.add(position)
                yield 2 * index, position[0]
    else:
        for offset, line in dis.findlinestarts(code):
            if line not in seen:
                seen.add(line)
                yield offset, line


def compare_code(code: types.CodeType, counts: Counter) -> None:
    frame = frame_of(code)
    for offset, line in places(code):
        place = types.TracebackType(None, frame, offset, line)
        counts["positions"] += 1
        text, kept, expected = (
            ours.format_tb(place),
            ours.format_list(ours.extract_tb(place)),
            standard.format_tb(place),
        )
        if text != expected or kept != expected:
            counts["differences"] += 1
            print(f"{code.co_filename}:{line} at {offset}\n{text}\n{kept}\n{expected}")
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            compare_code(constant, counts)


def main() -> int:
    warnings.simplefilter("ignore")
    modulus, remainder = (int(number) for number in sys.argv[1:3]) if len(sys.argv) > 2 else (1, 0)
    counts: Counter = Counter(files=0, positions=0, differences=0)
    for path in library_files(modulus, remainder):
        code = compile_file(path)
        counts["files that don't compile" if code is None else "files"] += 1
        if code is not None:
            compare_code(code, counts)
        linecache.clearcache()
    print(sys.version.split()[0], dict(counts))
    return 1 if counts["differences"] else 0


if __name__ == "__main__":
    sys.exit(main())
