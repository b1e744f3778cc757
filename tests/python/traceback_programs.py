"""Helpers for the differential tests of faultproof.traceback: trees of exceptions and what to ask of them."""

from __future__ import annotations

import builtins
import io
import itertools
import linecache
import sys
import traceback as standard

import faultproof.traceback as ours
from hypothesis import strategies as st

standard = getattr(standard, "_faultproof_standard", standard)
HAS_GROUPS = hasattr(builtins, "ExceptionGroup")

# Statements that raise, of many forms; {0} is an operand.
STATEMENTS = [
    "1 / {0}",
    "x = 1 / {0}",
    "return f({0})",
    "return f({0}) + 1",
    "return g.f({0})",
    "x = f({0})",
    "x = y = f({0})",
    "(x) = (f({0}))",
    "return (f({0}))",
    "x = f({0})[1]",
    "d[{0}]",
    "d['a'][{0}]['b']",
    "d [ {0} ] + 3",
    "(1 + 2) / ({0})",
    "1+(1)/({0})",
    "1 // {0} ** 2",
    "-(1 % {0})",
    "not 1 / {0}",
    "[1 / i for i in [{0}]]",
    "f(*[{0}], **{{}})",
    "f(x=1)",
    "f(lambda: 3)",
    "f'{{1 / {0}}}'",
    "'\u4e2d\u6587' + f({0})",
    "x = '\u0301\u200d' + d['\u00e9']; f({0})",
    "f('\U0001f600', {0})  # \u4e2d",
    "assert f({0}), 'x'",
    "assert {0}, '\u00e9'",
    "raise ValueError({0})",
    "raise ValueError('a\\nb')",
    "with f({0}): pass",
    "for i in f({0}): pass",
    "import faultproof_nothing",
    "from os import nothing_{0}",
    "nothing_{0}",
    "g.nothing",
    "''.nothing",
    "x = 1 / {0}; y = 2",
    "return 1 / {0}  # comment",
    "x: int = 1 / {0}",
    "x = (1 if f({0}) else 2)",
    "\tx = 1 /\t{0}",
    "x = f({0},\n      3)",
    "return f(\n    {0},\n    {0},\n    {0},\n    {0},\n  )",
    "x = (1\n     /\n     {0})",
    "x = (1 +\n\n\n     # comment\n     f(\n  1,\n {0}))",
    "x = d[\n  {0}\n]",
    "x = d[1:\n\n{0}].a(\n1)",
    "x = '''\n\u4e2d\n''' + f('''\n{0}''')",
    "x = [\n  f({0}),\n  2]",
    "eval('1 / {0}')",
    "exec('def h():\\n  1 / {0}\\nh()')",
    "compile('x = = {0}', 'f.py', 'exec')",
    "compile('def f(:\\n  pass', '<string>', 'exec')",
    "compile('print \"\u4e2d\"', '<stdin>', 'exec')",
    "compile('  x\\n y', 'f', 'exec')",
    "int('\u4e2d')",
    "[].pop()",
    "g({0})",
]

PREAMBLE = """\
def f(*args, **kwargs):
    return 1 / 0
class g:
    f = f
d = {}
"""

_numbers = itertools.count()


def run_source(source: str, name: str | None = None):
    """Execute source whose lines linecache knows; the exception that its function run() raises."""
    name = name or f"<generated {next(_numbers)}>.py"
    linecache.cache[name] = (len(source), None, source.splitlines(True), name)
    namespace = {"__name__": "generated"}
    try:
        exec(compile(source, name, "exec"), namespace)
        namespace["run"]()
    except Exception as error:
        return error.with_traceback(error.__traceback__.tb_next)
    return ValueError("nothing was raised")


def indent(statement: str, prefix: str) -> str:
    return "".join(prefix + line for line in statement.splitlines(True))


@st.composite
def sources(draw):
    """A module with a function run() that calls others, perhaps many times, and fails."""
    statement = draw(st.sampled_from(STATEMENTS)).format(draw(st.sampled_from(["0", "0.0", "False"])))
    prefix = draw(st.sampled_from(["    ", "\t", "        "]))
    depth = draw(st.integers(0, 6))
    lines = [PREAMBLE]
    lines.append(f"def level_0(n):\n{indent(statement, prefix)}\n")
    lines.append(f"{prefix}return 1 / 0\n")
    for level in range(1, depth + 1):
        call = draw(
            st.sampled_from(["level_{0}(n)", "x = level_{0}(n)", "return level_{0}(n) + 1", "return level_{0}(\n n)"])
        )
        lines.append(f"def level_{level}(n):\n    {call.format(level - 1)}\n")
    lines.append(f"def run(n={draw(st.integers(0, 9))}):\n    if n:\n        run(n - 1)\n    level_{depth}(n)\n")
    return "".join(lines)


class Silent(Exception):
    def __str__(self):
        return ""


class Broken(Exception):
    def __str__(self):
        raise KeyboardInterrupt


class BrokenBase(Exception):
    def __str__(self):
        return 3  # not a string


class Falsy(Exception):
    def __bool__(self):
        return False


class Sized(Exception):
    def __len__(self):
        return 0


class Text(str):
    def __format__(self, spec):
        return "formatted"


class Odd(Exception):
    def __str__(self):
        return Text("odd")


class Meta(type):
    @property
    def __module__(cls):
        return "meta"


class WithMeta(Exception, metaclass=Meta):
    pass


class Getter(Exception):
    def __getattr__(self, name):
        if name == "__notes__":
            return ["from __getattr__"]
        raise AttributeError(name)


class NotesProperty(Exception):
    @property
    def __notes__(self):
        raise ValueError("no notes")


class Slashed(Exception):
    __module__ = None


class BuiltinLike(Exception):
    __module__ = "builtins"
    __qualname__ = "a.b"


texts = st.text(st.one_of(st.sampled_from("ab \n\t\r\x0b\x0c\x1c\x85\u2028'\"%{}"), st.characters()), max_size=12)
types = st.sampled_from(
    [
        ValueError,
        KeyError,
        OSError,
        StopIteration,
        SystemExit,
        KeyboardInterrupt,
        UnicodeError,
        NameError,
        AttributeError,
        ImportError,
        ModuleNotFoundError,
        SyntaxError,
        IndentationError,
        Silent,
        Broken,
        BrokenBase,
        Falsy,
        Sized,
        Odd,
        WithMeta,
        Getter,
        Slashed,
        BuiltinLike,
    ]
)
arguments = st.lists(st.one_of(texts, st.integers(), st.none(), st.binary(max_size=3)), max_size=3)
notes = st.one_of(
    st.none(),
    st.lists(st.one_of(texts, st.integers(), st.just(Broken()), st.just(Text("note"))), max_size=3),
    st.tuples(texts),
    texts,
    st.integers(),
    st.binary(max_size=3),
    st.dictionaries(texts, texts, max_size=1),
    st.just(Broken()),
)
positions = st.one_of(st.none(), st.integers(-2, 12))
syntax_errors = st.builds(
    lambda message, name, row, column, text, end_row, end_column: SyntaxError(
        message, (name, row, column, text, end_row, end_column)[: 4 if sys.version_info < (3, 10) else 6]
    ),
    texts,
    st.one_of(st.none(), texts),
    positions,
    positions,
    st.one_of(st.none(), texts, st.just("  print \u4e2d a\n")),
    positions,
    positions,
)


def make(kind, args, source):
    try:
        error = kind(*args)
    except Exception:
        error = ValueError(*args)
    if source is not None:
        error.__traceback__ = run_source(source).__traceback__
    return error


def with_notes(error, value):
    if value is not None and not isinstance(error, NotesProperty):
        error.__notes__ = value
    return error


leaves = st.one_of(
    st.builds(run_source, sources()),
    st.builds(make, types, arguments, st.one_of(st.none(), sources())),
    syntax_errors,
    st.builds(NotesProperty),
)


def link(error, cause, context, suppress, cycle):
    error.__cause__ = cause
    error.__context__ = context
    if suppress is not None:
        error.__suppress_context__ = suppress
    if cycle and cause is not None:
        cause.__context__ = error
    return error


def group(message, members, source):
    if not HAS_GROUPS:
        return link(ValueError(message), members[0], None, None, False)
    error = builtins.BaseExceptionGroup(message, members)
    if source is not None:
        error.__traceback__ = run_source(source).__traceback__
    return error


def extend(children):
    maybe = st.one_of(st.none(), children)
    linked = st.builds(
        link,
        st.builds(with_notes, leaves, notes),
        maybe,
        maybe,
        st.sampled_from([None, True, False]),
        st.booleans(),
    )
    grouped = st.builds(group, texts, st.lists(children, min_size=1, max_size=18), st.one_of(st.none(), sources()))
    return st.one_of(linked, linked, grouped)


exceptions = st.recursive(st.builds(with_notes, leaves, notes), extend, max_leaves=12)
limits = st.one_of(st.none(), st.integers(-5, 8), st.just(10**30))


def outcome(function, *args, **kwargs):
    """What a call gives: its result, or the type and text of its exception."""
    try:
        return "result", function(*args, **kwargs)
    except Exception as error:
        return "raises", type(error), str(error)


class Recorder:
    """A file that remembers each write."""

    def __init__(self):
        self.writes = []

    def write(self, text):
        self.writes.append(text)


def printed(module, name, *args, **kwargs):
    file, recorder = io.StringIO(), Recorder()
    first = outcome(getattr(module, name), *args, file=file, **kwargs)
    second = outcome(getattr(module, name), *args, file=recorder, **kwargs)
    return first, file.getvalue(), second, recorder.writes


def summaries(stack):
    """All slots of all summaries."""
    names = [name for name in standard.FrameSummary.__slots__ if name != "_code"]
    return type(stack), [[getattr(summary, name, "unset") for name in names] for summary in stack]


def differences(error, limit, chain):
    """The names of the functions whose results differ; empty when all is as it should be."""
    trace = error.__traceback__
    asked = {
        "format_exception": lambda m: outcome(m.format_exception, type(error), error, trace, limit, chain),
        "format_exception keywords": lambda m: outcome(
            m.format_exception, type(error), value=error, tb=trace, limit=limit, chain=chain
        ),
        "print_exception": lambda m: printed(m, "print_exception", type(error), error, trace, limit=limit, chain=chain),
        "format_exception_only": lambda m: outcome(m.format_exception_only, type(error), error),
        "format_tb": lambda m: outcome(m.format_tb, trace, limit),
        "print_tb": lambda m: printed(m, "print_tb", trace, limit),
        "extract_tb": lambda m: summaries(m.extract_tb(trace, limit)) if limit != 10**30 else None,
        "format_list": lambda m: outcome(m.format_list, standard.extract_tb(trace, limit)) if limit != 10**30 else None,
        "format_exc": lambda m: outcome(while_handling, error, m.format_exc, limit, chain),
        "print_exc": lambda m: while_handling(error, printed, m, "print_exc", limit),
    }
    if hasattr(standard, "_parse_value_tb"):
        asked["format_exception(error)"] = lambda m: outcome(m.format_exception, error, limit=limit, chain=chain)
    found = []
    for name, ask in asked.items():
        theirs, mine, again = ask(standard), ask(ours), ask(ours)
        if theirs != mine or theirs != again:
            found.append((name, theirs, mine if theirs != mine else again))
    return found


def while_handling(error, function, *args, **kwargs):
    trace = error.__traceback__
    try:
        raise error
    except BaseException:
        return function(*args, **kwargs)
    finally:
        error.__traceback__ = trace
