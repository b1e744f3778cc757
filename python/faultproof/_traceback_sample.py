"""Whether the carets drawn in C are the running interpreter's, on a sample of code that has each rule.

Asked where the interpreter's functions aren't among those that ours were compared with (src/traceback/rules.inc), when
it is clear that many tracebacks come; and when that table is made.
"""

from __future__ import annotations

import linecache
import types
from _thread import get_ident

from . import _traceback  # type: ignore[attr-defined]  # built, without a stub

# One line for each rule by which carets are placed; both places of carets must agree on all of them.
_SAMPLE = """\
def sample(a, b, c):
    a + b; a.c - c  # comment
    a+(b); (a)*(b); a//b ; (a + b) * c
    a[b]; a[b, c][c]; a[(b)] ; a [ 1:2 ]
    a(b); a.b(c)(a); (a)(b=c)
    x = a(b)
    x = a[b]
    return a(b, c)
    return a.b(c)
    "\u4e00" + a; a("\u4e00", b)
    x = a(b,
        c)
    x = a + (b
             * c(
                 a, b)
             + c)
    raise a(b)
    -a; not a; a if b else c; a < b; [a for b in c]; f"{a!r:>3}" + b
    a += b
"""


def _positions(code):
    """Each instruction's offset with its position, for the code and those inside it."""
    for index, position in enumerate(code.co_positions()):
        if None not in position:
            yield code, 2 * index, position
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _positions(constant)


def _standard_text(standard, code, position):
    """The interpreter's text for a frame at that position."""
    lineno, end_lineno, colno, end_colno = position
    summary = standard.FrameSummary(
        code.co_filename, lineno, code.co_name, end_lineno=end_lineno, colno=colno, end_colno=end_colno
    )
    return standard.StackSummary().format_frame_summary(summary)


def agrees(standard) -> bool:
    """Whether the carets drawn in C are those of the interpreter's module, on the sample."""
    name = f"<faultproof sample {get_ident()}>"  # another thread may be asking too
    linecache.cache[name] = (len(_SAMPLE), None, _SAMPLE.splitlines(True), name)
    try:
        seen = set()
        for code, offset, position in _positions(compile(_SAMPLE, name, "exec")):
            if position in seen:
                continue
            seen.add(position)
            text = _traceback.caret_text(code, offset)
            if text is not None and text != _standard_text(standard, code, position):
                return False
        return True
    finally:
        linecache.cache.pop(name, None)
