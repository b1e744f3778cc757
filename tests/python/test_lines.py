"""Each line-table decoder agrees with the interpreter on every instruction of its standard library."""

from __future__ import annotations

import dis
import importlib.util
import marshal
import pathlib
import sysconfig
import types
import warnings

import pytest
from faultproof import faulthandler

LIB = pathlib.Path(sysconfig.get_paths()["stdlib"])
SKIPPED = {"site-packages", "dist-packages", "__pycache__", "bad_coding", "badsyntax"}


def lines_of(code: types.CodeType) -> list[int]:
    """The line of each code unit as the interpreter gives it; -1: none."""
    size = len(code.co_code)
    if hasattr(code, "co_lines"):
        lines = [-1] * (size // 2)
        for start, end, line in code.co_lines():
            lines[start // 2 : end // 2] = [-1 if line is None else line] * (end // 2 - start // 2)
        return lines
    lines = []
    starts = dict(dis.findlinestarts(code))
    line = code.co_firstlineno
    for offset in range(0, size, 2):
        line = starts.get(offset, line)
        lines.append(line)
    return lines


def codes_of(code: types.CodeType):
    todo = [code]
    while todo:
        code = todo.pop()
        yield code
        todo += [c for c in code.co_consts if isinstance(c, types.CodeType)]


def compiled(path: pathlib.Path) -> types.CodeType | None:
    """The module's code, from its cache file where there is one: compiling the whole library takes a minute."""
    cache = pathlib.Path(importlib.util.cache_from_source(str(path)))
    if cache.exists():
        data = cache.read_bytes()
        if data[:4] == importlib.util.MAGIC_NUMBER:
            return marshal.loads(data[16:])
    return parse(path.read_bytes(), str(path))


def parse(source: bytes, name: str) -> types.CodeType | None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return compile(source, name, "exec", dont_inherit=True)
        except (SyntaxError, ValueError):
            return None  # the library holds files that are wrong on purpose


def check(module: types.CodeType | None, name: str) -> int:
    n = 0
    for code in codes_of(module) if module else ():
        wanted = lines_of(code)
        # every unit of small code objects; of large ones the decoder is asked for some, each from the start
        step = max(1, len(wanted) // 50)
        offsets = list(range(0, len(wanted), step))
        assert faulthandler._lines(code, [2 * i for i in offsets]) == [wanted[i] for i in offsets], (name, code)
        n += len(offsets)
    return n


def files():
    for path in sorted(LIB.rglob("*.py")):
        if not SKIPPED & set(path.parts) and path.is_file():
            yield path


def test_the_standard_library():
    n = sum(check(compiled(path), str(path)) for path in files())
    assert n > 100_000


@pytest.mark.parametrize(
    "source",
    [
        "x = 1\n" + "\n" * 70000 + "y = 2\nz = 3\n",
        "def f():\n" + "\n" * 200 + "    return (1,\n" + "\n" * 5000 + " f())\n",
        "x = [\n" + "".join(f" {i},\n" for i in range(3000)) + "]\n",
        "a = " + "+".join(["b"] * 300) + "\nc = 1\n",
        "if a:\n    pass\nelse:\n" + "".join(f"    x{i} = y\n" for i in range(5000)),
        "for i in a:\n  try:\n    b()\n  except E as e:\n    c()\n  finally:\n    d()\n",
    ],
)
def test_long_tables(source):
    assert check(parse(source.encode(), "long"), "long") > 0
