"""Compares the texts of exceptions whose classes are as odd as Python lets them be.

Attributes that raise, that hide BaseException's own, of any type; metaclasses with names of their own; arguments that
nobody would give.

Usage: python bench/soak/traceback_exceptions.py [NUMBER [SEED]]
The exit status says whether there was a difference.
"""

from __future__ import annotations

import builtins
import contextlib
import io
import random
import re
import sys
import traceback as standard

import faultproof.traceback as ours

GROUP = getattr(builtins, "ExceptionGroup", None)


class Text(str):
    pass


class Angry:
    """Every question is answered by an exception."""

    __hash__ = None

    def __bool__(self):
        raise KeyError("bool")

    def __eq__(self, other):
        raise KeyError("eq")

    def __str__(self):
        raise KeyError("str")

    def __repr__(self):
        raise RuntimeError("repr")

    def __len__(self):
        raise KeyError("len")

    def __iter__(self):
        raise KeyError("iter")


VALUES = [None, 0, 1, True, False, "", Text("s"), "x", b"b", [], (), ["a", Text("b"), 3, None], ("n",), {"k": 1},
          Angry(), len, ValueError("v"), KeyError("k"), ValueError, 10**30, float("nan")]  # fmt: skip
HANGS = ["__cause__", "__context__", "__suppress_context__", "__traceback__"]
NAMES = [*HANGS, "__notes__", "exceptions", "__class__", "msg", "filename", "lineno", "text", "offset", "end_lineno",
         "end_offset", "name", "name_from", "obj", "args", "code", "print_file_and_line", "path", "message", "split",
         "__module__", "__doc__", "__name__"]  # fmt: skip
BASES = [ValueError, Exception, BaseException, SyntaxError, KeyError, OSError, NameError, AttributeError, ImportError,
         StopIteration, RuntimeError, *([GROUP] * 4 if GROUP is not None else [])]  # fmt: skip
TYPE_NAMES = ["T", "\u4e2dT", "KeyError", "SyntaxError"]
LIMITS = [None, 0, 1, -1, -3, 2, True, "x", 1.5, 10**30, Angry()]
CHAINS = [True, False, None, 0, "", Angry(), [1]]
GLOBAL_LIMITS = ["unset"] * 6 + ["x", -1, None, 2**100, True, 0, 1, 3]


def gives(value):
    return property(lambda self: value)


def raises(error: type):
    def get(self):
        raise error("from property")

    return property(get)


def says(value):
    return lambda self: value


def hook(lots: random.Random, base: type):
    """__getattribute__ or __getattr__ that has an answer of its own for one name or all."""
    kind = lots.choice(["__getattribute__", "__getattr__"])
    error, only, value = lots.choice([AttributeError, KeyError, None]), lots.choice(NAMES), lots.choice(VALUES)

    def get(self, name):
        if name == only or kind == "__getattr__":
            if error is not None:
                raise error(name)
            return value
        return base.__getattribute__(self, name)

    return kind, get


def attribute(lots: random.Random, base: type):
    name, value = lots.choice([*NAMES, "__str__", "__repr__", "__qualname__", "hook"]), lots.choice(VALUES)
    if name == "hook":
        return hook(lots, base)
    if name in ("__str__", "__repr__"):
        return name, says(value) if lots.random() < 0.8 else lambda self: 1 / 0
    if name == "__qualname__":
        return name, lots.choice(["q", "a.b", Text("sq"), "", "\udc80"])
    if name in ("__module__", "__doc__", "__name__"):
        return name, value
    if name == "__class__":
        return name, lots.choice([gives(value), raises(AttributeError)])
    error = lots.choice([AttributeError, KeyError, ValueError])
    return name, lots.choice([value, gives(value), raises(error), gives(lots.choice([ValueError("p"), None]))])


def metaclass(lots: random.Random) -> type:
    if lots.random() < 0.8:
        return type
    name, value = lots.choice(["__module__", "__qualname__", "__name__", "__str__", "__repr__"]), lots.choice(VALUES)
    if name in ("__str__", "__repr__"):
        return type("Meta", (type,), {name: says(value)})
    return type("Meta", (type,), {name: lots.choice([gives(value), raises(AttributeError), raises(KeyError)])})


def raised(error: BaseException, depth: int):
    if depth:
        raised(error, depth - 1)
    else:
        raise error


def attempted(lots: random.Random, depth: int) -> BaseException:
    """An exception with neighbours and members of the same kind; whatever that may raise."""
    base = lots.choice(BASES)
    own = dict(attribute(lots, base) for _ in range(lots.randrange(3)))
    kind = metaclass(lots)(lots.choice(TYPE_NAMES), (base,), own)
    if base is GROUP:
        count = lots.choice([1, 2, 3, 17] if depth < 1 else [1, 2])
        return kind(lots.choice(["m", "", Text("g"), "a\nb"]), [drawn(lots, depth + 1) for _ in range(count)])
    return kind(*[lots.choice(VALUES) for _ in range(lots.randrange(3))])


def drawn(lots: random.Random, depth: int = 0) -> BaseException:
    if depth > 2:
        return ValueError("leaf")
    try:
        error = attempted(lots, depth)
    except BaseException:
        return ValueError("can't be made")
    changes = [(lots.choice(NAMES), lots.choice(VALUES)) for _ in range(lots.randrange(4))]
    changes += [(name, drawn(lots, depth + 1)) for name in HANGS[:2] if lots.random() < 0.4]
    for name, value in changes:
        try:
            setattr(error, name, value)
        except BaseException:
            continue
    if lots.random() < 0.5:
        with contextlib.suppress(BaseException):
            raised(error, lots.randrange(6))
    return error


def outcome(function):
    try:
        return repr(function())
    except BaseException as error:
        try:
            return type(error).__name__, str(error)
        except BaseException as second:
            return type(error).__name__, type(second).__name__


def traceback_of(error: BaseException):
    try:
        return error.__traceback__
    except BaseException:
        return None


def questions(lots: random.Random, error: BaseException) -> list:
    """Functions of a module; what they are asked is drawn once for both."""
    kind, tb = type(error), traceback_of(error)
    odd_kind = lots.choice([kind, kind, None, ValueError, 3, Text, Angry()])
    odd_value = lots.choice([error, error, None, 3, "x", Angry(), ValueError("other")])
    odd_tb = lots.choice([tb, tb, None, 3, Angry()])
    keywords = {}
    if lots.random() < 0.3:
        keywords["limit"] = lots.choice(LIMITS)
    if lots.random() < 0.3:
        keywords["chain"] = lots.choice(CHAINS)

    def printed(module):
        file = io.StringIO()
        result = outcome(lambda: module.print_exception(kind, error, tb, file=file, **keywords))
        return result, file.getvalue()

    asked = [
        lambda module: module.format_exception(kind, error, tb, **keywords),
        lambda module: module.format_exception(kind, error, odd_tb, **keywords),
        lambda module: module.format_exception_only(kind, error),
        lambda module: module.format_exception(odd_kind, odd_value, odd_tb, **keywords),
        lambda module: module.format_exception_only(odd_kind, odd_value),
        lambda module: module.format_tb(odd_tb, keywords.get("limit")),
        printed,
    ]
    if sys.version_info >= (3, 10):
        asked += [lambda module: module.format_exception(error, **keywords)]
        asked += [lambda module: module.format_exception_only(error)]
    return asked


def main() -> int:
    number = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    lots = random.Random(int(sys.argv[2]) if len(sys.argv) > 2 else None)
    assert ours._features()["pristine"], "nothing would be compared"
    differences = 0
    for _ in range(number):
        error = drawn(lots)
        asked = questions(lots, error)
        limit = lots.choice(GLOBAL_LIMITS)
        if limit != "unset":
            sys.tracebacklimit = limit
        for place, ask in enumerate(asked):
            theirs, mine = (outcome(lambda: ask(module)) for module in (standard, ours))  # noqa: B023
            if re.sub("0x[0-9a-f]+", "", str(theirs)) != re.sub("0x[0-9a-f]+", "", str(mine)):
                differences += 1
                print(ascii((place, type(error).__mro__[1].__name__, theirs, mine)))
        if limit != "unset":
            del sys.tracebacklimit
    print(f"{sys.version.split()[0]}: {number} odd exceptions, {differences} differences")
    return 1 if differences else 0


if __name__ == "__main__":
    sys.exit(main())
