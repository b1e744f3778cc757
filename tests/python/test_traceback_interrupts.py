"""What a signal's handler, a trace function or a lack of memory raises goes where it goes in the standard module.

traceback_interrupts.py is the program; each part prints what was lost.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig

import pytest

PROGRAM = os.path.join(os.path.dirname(os.path.abspath(__file__)), "traceback_interrupts.py")


def lost(module: str, how: str) -> str:
    result = subprocess.run([sys.executable, PROGRAM, module, how], capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.parametrize("module", ["ours", "std"])
def test_a_signal_that_has_arrived_is_delivered(module):
    assert lost(module, "signals") == ""


def test_what_a_trace_function_raises_gets_out():
    assert lost("ours", "trace") == ""


def test_a_lack_of_memory_is_told_and_changes_no_text():
    pytest.importorskip("_testcapi", reason="this interpreter has no way to make allocations fail")
    if sysconfig.get_config_var("Py_GIL_DISABLED"):
        pytest.skip("free-threaded builds take objects from an allocator that can't be made to fail")
    assert lost("ours", "memory") == ""


def run(code: str, *options: str) -> str:
    result = subprocess.run([sys.executable, *options, "-c", code], capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    return result.stdout


NEAR_THE_LIMIT = """
import sys
from faultproof import _traceback, traceback as tb
import traceback as std

def error():
    try:
        return {}["x"] + 1
    except KeyError as e:
        return e

def at_depth(n):
    return at_depth(n - 1) if n else tb.format_exception(KeyError, exc, exc.__traceback__)

exc = error()
for n in range(sys.getrecursionlimit(), 0, -7):  # from where nothing works to where all does
    try:
        at_depth(n)
        break
    except RecursionError:
        pass
try:
    compile("a b", "<s>", "exec")
except SyntaxError as e:
    wrong = e
calls = []
for _ in range(5):
    assert tb.format_exception(KeyError, exc, exc.__traceback__) == std.format_exception(KeyError, exc, exc.__traceback__)
    assert tb.format_exception_only(wrong) == std.format_exception_only(wrong)
def profile(frame, event, argument):
    if event == "call":
        calls.append(frame.f_code.co_name)
sys.setprofile(profile)
tb.format_exception(KeyError, exc, exc.__traceback__)
sys.setprofile(None)
print(calls)
"""


def test_a_first_traceback_near_the_recursion_limit_costs_later_ones_nothing(tmp_path):
    program = tmp_path / "program.py"
    three = "format_exception_only(SyntaxError, wrong)"
    program.write_text(NEAR_THE_LIMIT.replace("format_exception_only(wrong)", three))
    result = subprocess.run([sys.executable, program], capture_output=True, text=True, timeout=300)
    assert (result.returncode, result.stdout) == (0, "[]\n"), result.stdout + result.stderr


WARNINGS = r"""
import linecache, warnings
import traceback as std
from faultproof import traceback as ours

def error(source, name=[0]):
    name[0] += 1
    file = "<source %d>" % name[0]
    linecache.cache[file] = (1, None, source.splitlines(True), file)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        code = compile(source, file, "exec")
    try:
        exec(code, {"d": {}, "one": 1})
    except Exception as e:
        return e
    raise AssertionError(source)

def text(tb, e, action):
    with warnings.catch_warnings():
        warnings.simplefilter(action)
        return tb.format_exception(type(e), e, e.__traceback__)[1:]

sources = [
    "x = '\\d' + one\n",
    "x = (lambda: '\\d')() + (2 if 0 else 1) + d['\\d'] @ 2\n",
    "x = f'{d}\\d' + [i for i in '\\q'] + 1\n",
    "x = one + (1for i in d) + 1\n",
    "x = (1if one else 2) + d\n",
    "x = d[1or 2] @ 3\n",
    "x = (lambda: '\\777')() + (2 if 0 else 1) + d @ 2\n",
]
for source in sources:
    for first, second in (("error", "ignore"), ("ignore", "error")):
        e = error(source)
        for action in (first, second, first):
            assert text(ours, e, action) == text(std, e, action), (source, action, text(ours, e, action), text(std, e, action))
"""


def test_texts_that_depend_on_the_filters_of_warnings_are_not_remembered():
    run(WARNINGS)


CACHE = """
import linecache, sys
import traceback as std
from faultproof import traceback as ours

class D(dict): pass

def replace(how):
    class Replaces(Exception):
        def __str__(self):
            if how == "subclass": linecache.cache = D(linecache.cache)
            elif how == "list": linecache.cache = []
            elif how == "deleted": del linecache.cache
            return "s"
    def f():
        try: raise ValueError("inner")
        except ValueError: raise Replaces()
    try: f()
    except Replaces as e: cause = e
    error = ValueError("outer")
    error.__cause__ = cause
    return error

def outcome(tb, how):
    kept = linecache.cache
    error = replace(how)
    try:
        return "".join(tb.format_exception(type(error), error, None))
    except Exception as e:
        return type(e).__name__
    finally:
        linecache.cache = kept

for how in ("subclass", "list", "deleted"):
    a, b = outcome(std, how), outcome(ours, how)
    # where the cache isn't asked any more ours needs none
    assert a == b or (a == "NameError" and "ValueError: outer" in b), (how, a, b)
"""


def test_linecache_may_become_something_else_in_the_middle():
    run(CACHE)


METACLASS = """
import traceback as std
from faultproof import traceback as ours

asked = []

class Meta(type):
    def __getattribute__(self, name):
        if name not in ("__dict__", "__mro__", "__class__"):
            asked.append(name)
        return super().__getattribute__(name)

class Nameless(type):
    @property
    def __module__(self):
        raise KeyError("no name")

def raised(kind):
    try:
        raise kind("text")
    except Exception as e:
        return e

def outcome(tb, error):
    del asked[:]
    try:
        return "".join(tb.format_exception(type(error), error, error.__traceback__)), list(asked)
    except KeyError as e:
        return repr(e), list(asked)

class Once(AttributeError):
    @property
    def name(self):
        asked.append("name")
        raise TimeoutError("in name")

class Notes(Exception):
    @property
    def __notes__(self):
        asked.append("notes")
        return ["a note"]

def safely(tb, error):
    try:
        return outcome(tb, error)
    except TimeoutError as e:
        return repr(e), list(asked)

for kind in (Meta("Asked", (Exception,), {}), Nameless("Named", (Exception,), {}), Once, Notes):
    error = raised(kind)
    assert safely(ours, error) == safely(std, error), (safely(ours, error), safely(std, error))
"""


def test_attributes_that_run_code_are_asked_for_as_often_as_by_the_standard_module():
    run(METACLASS)
