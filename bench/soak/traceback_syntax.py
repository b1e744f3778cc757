"""Compares the lines of SyntaxErrors with the interpreter's own over drawn attributes of all kinds.

Usage: python bench/soak/traceback_syntax.py [NUMBER [SEED]]
The exit status says whether there was a difference.
"""

from __future__ import annotations

import random
import sys
import traceback as standard

import faultproof.traceback as ours


class Derived(SyntaxError):
    pass


class Weird(SyntaxError):
    def __str__(self) -> str:
        return "weird"


TYPES = [SyntaxError, SyntaxError, IndentationError, TabError, Derived, Weird]
# What the compiler gives comes first; what nobody would expect is drawn one time in ten.
MESSAGES = [None, "", "invalid syntax", "message", "invalid syntax. Perhaps you forgot a comma?", "\ud800", 5, "a\nb"]
FILES = [None, "", "file.py", "<string>", "\xe9", b"x", 5, "a\nb"]
LINES = [None, 0, 1, 2, -1, 70_000, "3", True]
OFFSETS = [None, 0, 1, 2, 3, 4, 5, 6, 7, 10, 51, 52, 60, -1, -2, -5, 70_000, True, "3", 1.5]
TEXTS = [None, "", "\n", " ", "abc",
         "  abc\n", "\tabc\n", " \f\n x = (1\n\n", "a\tb c\n", "\u4e00b = \u0301x", "a\nb\n",
         "x" * 50, "   ", "a\x00b", "\xe9 = 1\n", "a\x85b"]  # fmt: skip
ATTRIBUTES = ("filename", "lineno", "text", "offset", "end_lineno", "end_offset", "msg")


def drawn(random: random.Random) -> SyntaxError | None:
    """One exception; None: it can't be made."""

    def one_of(values: list, common: int):
        return random.choice(values[:common] if random.random() < 0.9 else values)

    arguments: tuple = (random.choice(MESSAGES),)
    kind = random.random()
    if kind < 0.9:
        place = [one_of(FILES, 5), one_of(LINES, 4), one_of(OFFSETS, 12), one_of(TEXTS, 16)]
        if kind < 0.7 and sys.version_info >= (3, 10):
            place += [one_of(LINES, 4), one_of(OFFSETS, 14)]
        arguments += (tuple(place),)
    try:
        error = random.choice(TYPES)(*arguments)
    except (TypeError, ValueError):
        return None
    for name in ATTRIBUTES:
        if random.random() < 0.04 and hasattr(error, name):
            setattr(error, name, random.choice(FILES + LINES + OFFSETS + TEXTS))
    if random.random() < 0.1:
        error.__notes__ = ["note", "two\nlines"]
    return error


def outcome(function, *arguments):
    try:
        return function(*arguments)
    except Exception as error:
        return type(error), str(error)


def main() -> int:
    number = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    lots = random.Random(int(sys.argv[2]) if len(sys.argv) > 2 else None)
    assert ours._features()["pristine"] and ours._syntax_style(), "nothing would be compared"
    compared = differences = 0
    while compared < number:
        error = drawn(lots)
        if error is None:
            continue
        compared += 1
        for name, further in (("format_exception_only", ()), ("format_exception", (None,))):
            arguments = type(error), error, *further
            theirs, mine = (outcome(getattr(module, name), *arguments) for module in (standard, ours))
            if theirs != mine:
                differences += 1
                print(ascii((name, type(error), error.args, vars(error), theirs, mine)))
    print(f"{sys.version.split()[0]}: {compared} syntax errors, {differences} differences")
    return 1 if differences else 0


if __name__ == "__main__":
    sys.exit(main())
