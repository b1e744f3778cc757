"""Compares tracebacks that no compiler and no interpreter makes: instructions and lines that aren't there, damaged
position tables, strange names.

Usage: python bench/soak/traceback_damaged.py [NUMBER [SEED]]
The exit status says whether there was a difference.
"""

from __future__ import annotations

import io
import random
import sys
import traceback as standard
import types

import faultproof.traceback as ours


def several(
    a,
    b=2,
):
    x = (a +
         b * 3)  # fmt: skip
    return [y / 0 for y in
            range(x)][a][b](x)  # fmt: skip


def nested(a):
    with open(a or "") as z:
        return several(1) + sys._getframe().f_lineno if a else z[1:2, ...].foo(1, *a)


def short(a): return a[0][1].x.y(3) @ 5 or (lambda: 3)(a)  # fmt: skip


FUNCTIONS = [several, nested, short]
TABLE = "co_linetable" if sys.version_info >= (3, 10) else "co_lnotab"
INSTRUCTIONS = [-1, -2, 0, 1, 2, 3, 7, 20, 50, 100, 400, 10**6, 2**31 - 1, -(2**31)]
LINES = [-1, 0, 1, 5, 8, 10**6, -3, 2**31 - 1]
NAMES = ["", "<lambda>", "\udc80", "a\nb", "\u4e2d" * 3, "x" * 600]
FILES = ["", __file__, "<string>", "nofile.py", "<x", "a\nb.py", "\udcff.py", __file__ + "\0x", "<stdin>", "<stdin-1>"]
LIMITS = [None, None, None, 1, -1, 0, 2, -2]


def caught(function, argument) -> types.TracebackType | None:
    try:
        function(argument)
    except BaseException as error:
        return error.__traceback__
    return None


def entries(tb: types.TracebackType | None) -> list[types.FrameType]:
    frames = []
    while tb is not None:
        frames.append(tb.tb_frame)
        tb = tb.tb_next
    return frames


FRAMES = [frame for function in FUNCTIONS for argument in (0, "", []) for frame in entries(caught(function, argument))]


def damaged(lots: random.Random, table: bytes) -> bytes:
    changed = bytearray(table)
    for _ in range(lots.choice([0, 0, 1, 2, 5])):
        where = lots.randrange(len(changed) + 1)
        kind = lots.randrange(4)
        if kind == 0 and where < len(changed):
            changed[where] = lots.randrange(256)
        elif kind == 1:
            del changed[where:]
        elif kind == 2:
            changed += bytes(lots.randrange(256) for _ in range(lots.randrange(6)))
        else:
            changed[where:where] = bytes(lots.randrange(256) for _ in range(2))
    # where a table ends inside of an entry the interpreter reads on behind it: its answer would be anything
    return bytes(changed) if changed == table else bytes(changed) + bytes(12)


def of_changed_code(lots: random.Random) -> types.TracebackType | None:
    code = lots.choice(FUNCTIONS).__code__
    changes = {TABLE: damaged(lots, getattr(code, TABLE))}
    for name, values in (
        ("co_firstlineno", [0, 1, 2, 5, 10**6, 2**31 - 1]),
        ("co_name", NAMES),
        ("co_filename", FILES),
    ):
        if lots.random() < 0.4:
            changes[name] = lots.choice(values)
    try:
        function = types.FunctionType(code.replace(**changes), globals(), "name", (1,))
    except ValueError:
        return None
    tb = caught(function, lots.choice([0, "", []]))
    return tb.tb_next if tb is not None and lots.random() < 0.5 else tb


def made(lots: random.Random) -> types.TracebackType:
    tb = None
    for _ in range(lots.randrange(1, 5)):
        instruction = lots.choice([*INSTRUCTIONS, lots.randrange(200)])
        tb = types.TracebackType(tb, lots.choice(FRAMES), instruction, lots.choice(LINES))
    return tb


def outcome(function):
    try:
        return function()
    except Exception as error:
        return type(error), str(error)


def places(module, tb, limit) -> list[tuple]:
    columns = ("end_lineno", "colno", "end_colno")
    return [(*summary, *(getattr(summary, name, None) for name in columns)) for summary in module.extract_tb(tb, limit)]


def printed(module, tb, limit) -> str:
    file = io.StringIO()
    module.print_tb(tb, limit, file)
    return file.getvalue()


ERROR = ValueError("x")
ASKED = [
    lambda module, tb, limit: module.format_tb(tb, limit),
    lambda module, tb, limit: module.format_exception(ValueError, ERROR, tb, limit),
    lambda module, tb, limit: module.format_list(module.extract_tb(tb, limit)),
    lambda module, tb, limit: module.StackSummary.extract(module.walk_tb(tb), limit=limit).format(),
    lambda module, tb, limit: [summary.line for summary in module.extract_tb(tb, limit)],
    places,
    printed,
]


def main() -> int:
    number = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    lots = random.Random(int(sys.argv[2]) if len(sys.argv) > 2 else None)
    assert ours._features()["pristine"], "nothing would be compared"
    compared = differences = 0
    while compared < number:
        tb = made(lots) if lots.random() < 0.5 else of_changed_code(lots)
        if tb is None:
            continue
        compared += 1
        limit = lots.choice(LIMITS)
        for ask in ASKED:
            theirs, mine = (outcome(lambda: ask(module, tb, limit)) for module in (standard, ours))  # noqa: B023
            if theirs != mine:
                differences += 1
                print(ascii((limit, theirs, mine)))
    print(f"{sys.version.split()[0]}: {compared} odd tracebacks, {differences} differences")
    return 1 if differences else 0


if __name__ == "__main__":
    sys.exit(main())
