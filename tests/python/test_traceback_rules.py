"""Whether our carets are the interpreter's is known of known releases, and asked of others when many tracebacks come."""

from __future__ import annotations

import subprocess
import sys

import faultproof.traceback as ours
import pytest
from faultproof import _traceback

carets = pytest.mark.skipif(sys.version_info < (3, 11), reason="tracebacks have carets since 3.11")


@carets
def test_a_release_in_the_table_draws_as_we_do():
    from faultproof._traceback_sample import agrees

    number, listed = _traceback.fingerprint()
    assert number and (agrees(ours._faultproof_standard) or not listed)


UNKNOWN = """
import sys, types, traceback as std
name = "_extract_caret_anchors_from_line_segment"
old = getattr(std, name)
code = old.__code__.replace(co_consts=(*old.__code__.co_consts, "another"))
setattr(std, name, types.FunctionType(code, vars(std), name, old.__defaults__, old.__closure__))
from faultproof import _traceback, traceback as tb
assert not _traceback.fingerprint()[1]

def error():
    try:
        return {}["x"] + 1
    except KeyError as e:
        return e

exc, called = error(), []
def profile(frame, event, argument):
    if event == "call":
        called[-1].add(frame.f_code.co_name)
good = std.format_exception(KeyError, exc, exc.__traceback__)
for _ in range(4):
    _traceback.forget()
    called.append(set())
    sys.setprofile(profile)
    text = tb.format_exception(KeyError, exc, exc.__traceback__)
    sys.setprofile(None)
    assert text == good
print(*(("asks" if "agrees" in c else "standard" if "format_frame_summary" in c else "own") for c in called))
"""


@carets
def test_an_unknown_release_is_asked_when_many_tracebacks_come(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(UNKNOWN)
    result = subprocess.run([sys.executable, program], capture_output=True, text=True, timeout=300)
    assert (result.returncode, result.stdout) == (0, "standard standard asks own\n"), result.stdout + result.stderr


def test_looking_at_the_module_raises_no_audit_event_for_each_function():
    code = """
import sys, traceback
events = []
sys.addaudithook(lambda event, args: events.append(event))
import faultproof.traceback
print(events.count("object.__getattr__"))
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert (result.returncode, result.stdout) == (0, "0\n"), result.stdout + result.stderr
