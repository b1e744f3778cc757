"""References, memory and threads of faultproof.traceback."""

from __future__ import annotations

import gc
import io
import linecache
import sys
import sysconfig
import threading
import weakref

import faultproof.traceback as ours
import pytest


def make_error(depth: int = 3):
    def recurse(number):
        if number:
            return recurse(number - 1)
        try:
            return {}["x"]
        except KeyError as error:
            raise ValueError("\u4e2d", number) from error

    try:
        recurse(depth)
    except ValueError as error:
        return error


def use_everything(error) -> None:
    trace = error.__traceback__
    ours.format_exception(type(error), error, trace)
    ours.format_exception(type(error), error, trace, limit=-2)
    ours.format_exception_only(type(error), error)
    ours.print_exception(type(error), error, trace, file=io.StringIO())
    ours.print_tb(trace, file=io.StringIO())
    ours.format_tb(trace)
    ours.extract_tb(trace)
    ours.extract_stack()
    ours.format_stack()
    ours.print_stack(file=io.StringIO())
    ours.format_exc()
    ours.format_exc_bytes()
    try:
        raise error
    except ValueError:
        ours.format_exc()
        ours.print_exc(file=io.StringIO())
    finally:
        error.__traceback__ = trace
    with pytest.raises(TypeError):
        ours.format_exception()
    stack = ours.extract_tb(trace)
    ours.format_list(stack)
    ours.print_list(stack, file=io.StringIO())
    ours._methods["format"](stack)
    for lookup in (True, False):
        ours._methods["extract"](ours.StackSummary, ours.walk_tb(trace), limit=2, lookup_lines=lookup)
        ours._methods["extract"](ours.StackSummary, ours.walk_stack(trace.tb_frame), lookup_lines=lookup)
    with pytest.raises(TypeError):
        ours._methods["extract"](ours.StackSummary, ours.walk_tb(trace), unknown=1)
    syntax = SyntaxError("message", ("file", 1, 3, "  x = (1\n"))
    ours.format_exception_only(SyntaxError, syntax)
    syntax.text = 5
    ours.format_exception_only(SyntaxError, SyntaxError("message", ("file", 1, b"", None)))


def references(error) -> list[int]:
    trace = error.__traceback__
    things = [None, error, trace, trace.tb_frame, trace.tb_frame.f_code, error.__cause__, type(error), ours.format_exc]
    things += [trace.tb_frame.f_code.co_filename, linecache.cache, ours.FrameSummary, ours.StackSummary, sys.stderr]
    things += [ours.TracebackException, trace.tb_frame.f_globals]
    return [sys.getrefcount(thing) for thing in things]


@pytest.mark.skipif(
    not hasattr(sys, "gettotalrefcount") and hasattr(sys, "_is_gil_enabled") and not sys._is_gil_enabled(),
    reason="reference counts are split between threads without the GIL",
)
def test_references_stay():
    error = make_error()
    for _ in range(5):
        use_everything(error)
    gc.collect()
    before = references(error)
    rounds = 400
    for _ in range(rounds):
        use_everything(error)
    gc.collect()
    changes = [after - first for first, after in zip(before, references(error))]
    # None's count is 3.11.2's too: the standard traceback alone loses it up to 80 references there, and then no more
    assert all(abs(change) < rounds / 2 for change in changes), changes


def test_memory_stays():
    """Blocks in use after thousands of texts; a leak of one object a call would show."""
    error = make_error()
    for _ in range(200):
        use_everything(error)
    gc.collect()
    before = sys.getallocatedblocks()
    for _ in range(2000):
        use_everything(error)
    gc.collect()
    assert sys.getallocatedblocks() - before < 1000


@pytest.mark.skipif(
    bool(sysconfig.get_config_var("Py_GIL_DISABLED")),
    reason="a free-threaded build makes code objects immortal once it has started a thread, as other tests do",
)
def test_no_code_object_is_kept_alive():
    source = "def f(x):\n    return 1 / x\n"
    name = "<kept>.py"
    linecache.cache[name] = (len(source), None, source.splitlines(True), name)
    namespace: dict = {}
    exec(compile(source, name, "exec"), namespace)
    try:
        namespace["f"](0)
    except ZeroDivisionError as error:
        ours.format_exception(type(error), error, error.__traceback__)
        ours.format_exception(type(error), error, error.__traceback__)
    reference = weakref.ref(namespace["f"].__code__)
    namespace.clear()
    del linecache.cache[name]
    gc.collect()
    assert reference() is None


def test_remembered_texts_are_bounded():
    """More different frames than there are places: each is still shown as it is, and memory is bounded."""
    error = None
    for number in range(12_000):
        name = f"<many {number}>.py"
        linecache.cache[name] = (1, None, ["1 / 0\n"], name)
        try:
            exec(compile("1 / 0", name, "exec"))
        except ZeroDivisionError as caught:
            error = caught
        text = ours.format_exception(type(error), error, error.__traceback__)
        assert f'File "{name}", line 1, in <module>' in text[2]
        del linecache.cache[name]


def test_threads():
    """Eight threads format the same and their own exceptions, while files change in linecache."""
    shared = make_error()
    expected = ours.format_exception(type(shared), shared, shared.__traceback__)
    failures: list = []
    barrier = threading.Barrier(8)

    def work(number):
        try:
            barrier.wait()
            name = f"<thread {number}>.py"
            for turn in range(150):
                source = f"def f(x):\n    return {turn} / x\n"
                linecache.cache[name] = (len(source), None, source.splitlines(True), name)
                namespace = {}
                exec(compile(source, name, "exec"), namespace)
                try:
                    namespace["f"](0)
                except ZeroDivisionError as error:
                    text = "".join(ours.format_exception(type(error), error, error.__traceback__))
                assert f"return {turn} / x" in text
                assert ours.format_exception(type(shared), shared, shared.__traceback__) == expected
                ours.extract_stack()
                ours.format_stack()
                if number == 0:
                    ours._traceback.forget()
                if turn % 10 == 0:
                    linecache.checkcache()
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
