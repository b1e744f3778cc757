"""The standard library's ``traceback`` with its hot paths in C: the same text, byte for byte.

The classes are the interpreter's own.  The functions that format, print and extract are ours; what is uncommon they
hand on to the interpreter's module.  Every other name, private ones too, is read from and written to that module.
"""

import io as _io
import sys as _sys
import traceback as _standard
import types as _types

from . import _traceback

# When this module is imported again after install(), the name "traceback" means ourselves.
_standard = getattr(_standard, "_faultproof_standard", _standard)


class _Falsy(Exception):
    def __bool__(self):
        return False


def _truth_matters() -> bool:
    """Whether an exception that is false has no cause for TracebackException."""
    exc = _Falsy()
    exc.__cause__ = ValueError()
    return _standard.TracebackException(_Falsy, exc, None).__cause__ is None


def _shows_notes() -> bool:
    exc = ValueError()
    exc.__notes__ = ["note"]
    return getattr(_standard.TracebackException(ValueError, exc, None), "__notes__", None) == ["note"]


def _keeps_line_stripped() -> bool:
    summary = _standard.FrameSummary("<faultproof>", 1, "name", lookup_line=False, line=None)
    if not hasattr(summary, "_line"):
        return False
    import linecache

    linecache.cache["<faultproof>"] = (1, None, [" x\n"], "<faultproof>")
    try:
        summary.line  # noqa: B018
        return summary._line == "x"
    finally:
        del linecache.cache["<faultproof>"]


def _syntax_style() -> int:
    """How the place of a SyntaxError is shown (FP_SYNTAX_... in tb.h, 0: not known): told from the carets of three."""

    def shown(lineno, text, offset, *end):
        error = SyntaxError("message", ("file", lineno, offset, text, *end))
        line = [*_standard.TracebackException(SyntaxError, error, None).format_exception_only()][-2][4:-1]
        return line.count(" "), line.count("^")

    if _sys.version_info < (3, 10):
        return 1 if shown(1, "abcdef", 2) == (1, 1) else 0
    answers = shown(1, "abcdef", 2, 1, 5), shown(1, "abcdef", 2, 2, 3), shown(1, "\u4e00\u4e00b", 3, 1, 4)
    known = {
        ((1, 3), (1, 1), (2, 1)): 2,
        ((1, 3), (1, 5), (2, 1)): 3,
        ((1, 3), (1, 5), (4, 1)): 4,
    }
    return known.get(answers, 0)


def _is_pristine() -> bool:
    """Whether somebody (the exceptiongroup package, say) has replaced a part of the modules before we were imported."""
    import builtins
    import linecache
    import os

    globals_of = vars(_standard)
    parts = (globals_of, _standard.TracebackException, _standard.StackSummary, _standard.FrameSummary)
    return (
        _traceback.owns(vars(linecache), vars(linecache))
        and all(_traceback.owns(part, globals_of) for part in parts)
        and isinstance(os.stat, _types.BuiltinFunctionType)
        and isinstance(builtins.print, _types.BuiltinFunctionType)
    )


def _features() -> dict[str, int]:
    """What the running interpreter's module does; asked of it, because it differs between releases of one version."""

    def takes(function, name):
        return _traceback.takes(_original(function), name)

    frame = _standard.FrameSummary
    carets = 2 if hasattr(frame, "_lines") else 1 if hasattr(frame, "_original_line") else 0
    return {
        "pristine": _is_pristine(),
        "carets": carets,
        "display_width": hasattr(_standard, "_display_width"),
        "compact": takes(_standard.TracebackException.__init__, "compact"),
        "truth": _truth_matters(),
        "notes": _shows_notes(),
        "suggest": hasattr(_standard, "_compute_suggestion_error"),
        "safe_string": hasattr(_standard, "_safe_string"),
        "colorize": takes(_standard.format_exception, "colorize"),
        "print_exc_colorize": takes(_standard.print_exc, "colorize"),
        "implicit": hasattr(_standard, "_parse_value_tb"),
        "strip_line": _keeps_line_stripped(),
        "typos": hasattr(_standard.TracebackException, "_find_keyword_typos"),
        "code_lines": hasattr(frame, "_code"),
    }


def _format_group_only(exc, /, value=None, *, show_group=False, colorize=False, _depth=0):
    """format_exception_only(show_group=...) for interpreters whose own function doesn't know it."""
    exc = exc if value is None else value
    indent = 3 * _depth * " "
    lines = []
    for line in _standard.TracebackException(type(exc), exc, None).format_exception_only():
        parts = line[:-1].split("\n") if _depth else [line[:-1]]
        lines.extend(f"{indent}{part}\n" for part in parts)
    if show_group and isinstance(getattr(exc, "exceptions", None), tuple):
        for member in exc.exceptions:
            lines.extend(_format_group_only(member, show_group=True, _depth=_depth + 1))
    return lines


def _check_carets() -> bool:
    """Whether the carets drawn in C are this interpreter's: asked on a sample where its rules aren't known ones."""
    from ._traceback_sample import agrees

    return agrees(_standard)


def _original(function):
    """The interpreter's function where ours stands in its place, as when this module is imported again."""
    return getattr(function, "__wrapped__", function)


def _walkers() -> tuple:
    """The generator functions that yield frames: code, argument, what they yield (FP_WALK_... in tb.h)."""
    names = ("walk_stack", "walk_tb", "_walk_tb_with_full_positions")
    found = [(kind, _traceback.generator_code(getattr(_standard, name, None))) for kind, name in enumerate(names)]
    return tuple((*generator, kind) for kind, generator in found if generator is not None)


_shows_groups = _traceback.takes(_original(_standard.format_exception_only), "show_group")
_found = _features()
_functions, _methods = _traceback.bind(
    _standard,
    _found,
    None if _shows_groups else _format_group_only,
    (_io.StringIO, _io.TextIOWrapper),
    _check_carets,
    _syntax_style,
    _walkers() if _found["pristine"] else (),
)

format_exc_bytes = _functions.pop("format_exc_bytes")
format_exc_bytes.__module__ = __name__
format_exc_bytes.__name__ = format_exc_bytes.__qualname__ = "format_exc_bytes"
format_exc_bytes.__doc__ = (
    "Like format_exc(), but UTF-8 in one bytes object; what UTF-8 can't say is written as an escape."
)


class _Module(_types.ModuleType):
    """Reads and writes what isn't its own in the interpreter's module, so that both stay one."""

    def __getattr__(self, name):
        try:
            return getattr(_standard, name)
        except AttributeError:
            raise AttributeError(f"module 'traceback' has no attribute {name!r}") from None

    def __setattr__(self, name, value):
        if name in _OWN:
            super().__setattr__(name, value)
            return
        if name in _functions:
            if value is _functions[name]:
                super().__setattr__(name, value)
                value = value if _is_installed() else _originals[name]
            else:
                self.__dict__.pop(name, None)
        setattr(_standard, name, value)

    def __delattr__(self, name):
        if name in _OWN:
            super().__delattr__(name)
            return
        self.__dict__.pop(name, None)
        delattr(_standard, name)

    def __dir__(self):
        return sorted({*dir(_standard), "format_exc_bytes"})


_originals = {name: function.__wrapped__ for name, function in _functions.items()}


def _is_installed() -> bool:
    return "format_exc_bytes" in vars(_standard)  # which install() puts there


_OWN = frozenset(name for name in globals() if name not in _functions and not hasattr(_standard, name)) | {
    "__class__",
    "__dict__",
    "__doc__",
    "__name__",
    "__file__",
    "__spec__",
    "__loader__",
    "__package__",
    "__cached__",
    "__builtins__",
    "_OWN",
    "_faultproof_standard",
}
_faultproof_standard = _standard
globals().update(_functions)
_sys.modules[__name__].__class__ = _Module
