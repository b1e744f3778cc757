"""What faultproof.traceback must not change: patches, edited files, files and streams, limits, deep and long things."""

from __future__ import annotations

import inspect
import io
import os
import subprocess
import sys
import textwrap

import faultproof.traceback as ours
import pytest


def in_child(program: str, *options: str) -> str:
    """Run a program where nothing but faultproof has touched the standard modules."""
    prelude = """
        import io, linecache, os, sys, types
        import traceback as standard
        import faultproof.traceback as ours
        def divide(a, b):
            return a / b
        def catch(function, *args):
            try:
                function(*args)
            except BaseException as error:
                return error
        def both(function, *args):
            return function(standard, *args), function(ours, *args)
        def same(function, *args):
            theirs, mine = both(function, *args)
            assert theirs == mine, (theirs, mine)
            return mine
        def text(module, error):
            try:
                return "".join(module.format_exception(type(error), error, error.__traceback__))
            except Exception as failure:
                return repr(failure)
    """
    source = textwrap.dedent(prelude) + textwrap.dedent(program)
    command = [sys.executable, *options, "-c", source]
    result = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=300)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


PATCHES = [
    "linecache.getline = lambda name, number, g=None: 'patched\\n'",
    "linecache.getlines = lambda name, g=None: ['patched\\n'] * 999",
    "linecache.checkcache = lambda name=None: linecache.cache.clear()",
    "linecache.cache = {}",
    "os.stat = lambda path, *args, stat=os.stat: (asked.append(path), stat(path))[1]",
    "standard.TracebackException.format = lambda self, **kwargs: iter(['patched\\n'])",
    "standard.TracebackException.__init__ = patched_init",
    "standard.StackSummary.format = lambda self, **kwargs: ['patched\\n']",
    "standard.StackSummary.extract = classmethod(lambda cls, *a, **k: cls())",
    "standard.FrameSummary.line = property(lambda self: 'patched')",
    "standard._cause_message = 'patched\\n'",
    "standard._some_str = standard._safe_string = lambda *args, **kwargs: 'patched'",
    "standard.walk_tb = standard._walk_tb_with_full_positions = lambda tb: iter(())",
    "standard.TracebackException = type('Mine', (standard.TracebackException,), {'format': lambda s, **k: iter('x')})",
    "standard.StackSummary.format_frame_summary = lambda self, summary, **kwargs: 'patched\\n'",
    "sys.tracebacklimit = 1",
    "sys.tracebacklimit = -1",
    "sys.tracebacklimit = None",
    "sys.tracebacklimit = 'x'",
    "import ast; ast.parse = lambda *args, **kwargs: 1 / 0",
    "import builtins; builtins.print = lambda *args, **kwargs: asked.append(args)",
]


@pytest.mark.parametrize("patch", PATCHES)
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_replaced_part_has_its_effect(patch, when):
    """Before and after the first text has been made (and remembered)."""
    in_child(f"""
        asked = []
        def patched_init(self, *args, init=standard.TracebackException.__init__, **kwargs):
            init(self, *args, **kwargs)
            self._str = 'patched'
        def outer():
            try:
                divide(1, 0)
            except ZeroDivisionError as error:
                raise KeyError("x") from error
        # the lines that are shown are those of a file
        code = compile(open(linecache.__file__).read(), linecache.__file__, "exec")
        namespace = {{}}
        exec(code, namespace)
        def file_error():
            namespace["lazycache"]("x", {{"__name__": property, "__spec__": None, "__loader__": 3}})
            namespace["getline"](None, [])
        errors = [catch(outer), catch(file_error)]
        def ask(module):
            asked.clear()
            results = []
            for error in errors:
                tb = error.__traceback__
                asks = [
                    lambda: module.format_exception(type(error), error, tb),
                    lambda: module.format_tb(tb),
                    lambda: [repr(s) + str(s.line) for s in module.extract_tb(tb)],
                    lambda: module.format_exception_only(type(error), error),
                ]
                for file in (io.StringIO(),):
                    asks.append(lambda: module.print_exception(type(error), error, tb, file=file) or file.getvalue())
                for one in asks:
                    try:
                        results.append(one())
                    except Exception as failure:
                        results.append(repr(failure))
            return results, [str(x) for x in asked]
        if {when!r} == "after":
            same(ask)
            ask(ours)
        {patch}
        same(ask)
        same(ask)
    """)


def test_replaced_functions_are_called_by_others():
    in_child("""
        import faultproof
        from unittest import mock
        faultproof.install()
        import traceback
        with mock.patch("traceback.format_exception", return_value=["mocked"]):
            try:
                divide(1, 0)
            except ZeroDivisionError:
                assert traceback.format_exc() == "mocked"
        with mock.patch.object(standard, "print_exception") as printed:
            try:
                divide(1, 0)
            except ZeroDivisionError:
                traceback.print_exc()
            assert printed.called
        assert traceback.format_exception is ours.format_exception is standard.format_exception
    """)


def test_edited_and_deleted_files(tmp_path):
    in_child(f"""
        path = {str(tmp_path / "edited.py")!r}
        def write(source):
            with open(path, "w") as file:
                file.write(source)
        source = "def f(x):\\n    return 1 / x\\n"
        write(source)
        namespace = {{}}
        exec(compile(source, path, "exec"), namespace)
        error = catch(namespace["f"], 0)
        first = same(text, error)
        assert "return 1 / x" in first
        def edit(new, when):
            write(new)
            os.utime(path, ns=(when, when))
            return same(text, error), same(text, error)
        # another size; the same size and another time; the same size and time by a replaced file
        assert "changed" in edit("def f(x):\\n    return 'changed' / x\\n", 10**18)[0]
        assert "1 + x" in edit("def f(x):\\n    return 1 + x\\n", 2 * 10**18)[1]
        assert "1 - x" in edit("def f(x):\\n    return 1 - x\\n", 3 * 10**18)[1]
        assert "1 - x" in edit("def f(x):\\n    return 1 * x\\n", 3 * 10**18)[1]
        edit("# shorter\\n", 4 * 10**18)
        edit("", 5 * 10**18)
        edit("\\n\\n)(\\n", 6 * 10**18)
        edit("def f(x):\\n    return (1 / \\n", 7 * 10**18)
        os.remove(path)
        same(text, error)
        write(source)
        assert same(text, error) == first
        linecache.clearcache()
        same(text, error)
        os.remove(path)
        os.mkdir(path)
        same(text, error)
    """)


def test_columns_that_cut_a_line_anywhere():
    """As after an edit, and as 3.12.1 gives for formatted strings: the columns' text may be any piece of the line."""
    in_child("""
        lines = ["cmd = f'{a.b} -m{c} --without-pip {self.env_dir}'", "x = a [ b ] + ( c )( d ) - 'e(' ; f", "\\tif (yield a)[0]: b (c, *d)"]
        for width in range(5, 30):
            for start in range(4, 30):
                source = " " * start + "1 /" + " " * (width - 4) + "0"
                source = "(\\n" + source + ")"
                code = compile(source, "a name of its own", "exec")
                linecache.cache["a name of its own"] = (len(source), None, source.splitlines(True), "a name of its own")
                error = catch(exec, code)
                for line in lines:
                    line += "\\n"
                    linecache.cache["a name of its own"] = (len(line) + 2, None, ["(\\n", line], "a name of its own")
                    same(text, error)
    """)


def test_linecache_entries_of_all_forms(tmp_path):
    in_child("""
        class Loader:
            def get_source(self, name):
                return "first\\ndef f(x): return 1 / x  # from the loader\\n"
        class Broken:
            def get_source(self, name):
                raise ImportError
        source = "\\ndef f(x): return 1 / x\\n"
        errors = []
        for number, loader in enumerate([Loader(), Broken(), None]):
            name = "no/such/file/%d.py" % number
            namespace = {"__name__": "loaded", "__loader__": loader,
                          "__spec__": types.SimpleNamespace(name="loaded", loader=loader)}
            exec(compile(source, name, "exec"), namespace)
            errors.append(catch(namespace["f"], 0))
        for error in errors:
            results = []
            for module in (standard, ours):
                linecache.clearcache()
                results.append(([text(module, error), text(module, error)], list(linecache.cache)))
            assert results[0] == results[1]
        assert "from the loader" in results[0][0][0] or "from the loader" in text(ours, errors[0])
        name = "no/such/file/0.py"
        for entry in [(1, None, ["a\\n", "b  \\n"], name), (1, None, [], name), (1, None, ["a\\n", ""], name),
                      (1, None, ("a\\n", "b\\n"), name), [1, None, ["a\\n", "b\\n"], name],
                       (9, 1.0, ["a\\n", "b\\n"], name),
                      (1, None, ["a\\n", "\\x0c def f(x): return\\x1c1 / x\\n"], name),
                       (1, None, ["\\n", "  \\t \\n"], name)]:
            linecache.cache[name] = entry
            theirs = text(standard, errors[0])
            linecache.cache[name] = entry
            mine = text(ours, errors[0])
            assert mine == theirs, (entry, mine, theirs)
        # a list of lines that changes in place
        lines = ["a\\n", "b = 1 / x\\n"]
        linecache.cache[name] = (1, None, lines, name)
        same(text, errors[0])
        lines[1] = "return 1 / x + 3\\n"
        assert "+ 3" in same(text, errors[0])
        lines.clear()
        same(text, errors[0])
    """)


def test_relative_and_frozen_names(tmp_path):
    (tmp_path / "relative.py").write_text("def f(x):\n    return 1 / x\n")
    in_child(f"""
        os.chdir({str(tmp_path)!r})
        names = ["relative.py", "", "<", ">", "<>", "<x>", "<frozen importlib._bootstrap>",
                 "<stdin>", "<stdin-3>", "<stdin-3",
                 "\\u4e2d.py", "a\\0b", "x" * 5000, "\\udc80.py"]
        for name in names:
            namespace = {{}}
            exec(compile(open("relative.py").read(), "tmp", "exec"), namespace)
            function = namespace["f"]
            function.__code__ = function.__code__.replace(co_filename=name, co_name="na\\nme")
            error = catch(function, 0)
            same(text, error)
            same(text, error)
            os.chdir("/")
            same(text, error)
            os.chdir({str(tmp_path)!r})
    """)


@pytest.mark.skipif(sys.version_info < (3, 13), reason="lines of code without a file are registered since 3.13")
def test_lines_of_interactive_code():
    in_child("""
        if hasattr(linecache, "_register_code") and "_code" in standard.FrameSummary.__slots__:
            source = "def f(x):\\n    return 1 / x\\n"
            code = compile(source, "<string>", "exec")
            namespace = {}
            exec(code, namespace)
            error = catch(namespace["f"], 0)
            assert "return" not in same(text, error)
            linecache._register_code(code, source, "<string>")
            assert "return 1 / x" in same(text, error)
            linecache._interactive_cache.clear()
            assert "return" not in same(text, error)
    """)


def test_files_and_streams():
    in_child("""
        class File:
            def __init__(self):
                self.calls = []
            def write(self, text):
                self.calls.append(text)
        class Sub(io.StringIO):
            def write(self, text):
                super().write(text.upper())
        error = catch(divide, 1, 0)
        error.__cause__ = ValueError("\\u4e2d\\udc80")
        def streams():
            return [File(), Sub(), io.StringIO(), io.StringIO(newline="\\r\\n"),
                    io.TextIOWrapper(io.BytesIO(), "ascii", "backslashreplace"),
                    io.TextIOWrapper(io.BytesIO(), "ascii"), None, 3,
                    types.SimpleNamespace(write=3)]
        def show(stream):
            if isinstance(stream, File):
                return stream.calls
            if isinstance(stream, io.TextIOWrapper):
                stream.flush()
                return stream.buffer.getvalue()
            return stream.getvalue() if isinstance(stream, io.StringIO) else None
        def ask(module, number, name):
            saved, stream = sys.stderr, streams()[number]
            calls = {"print_exception": (error,) if sys.version_info >= (3, 10) else (type(error), error, None),
                     "print_tb": (error.__traceback__,), "print_stack": ()}
            try:
                getattr(module, name)(*calls[name], file=stream)
                result = show(stream)
                sys.stderr = streams()[number]
                getattr(module, name)(*calls[name])
                return result, show(sys.stderr)
            except Exception as failure:
                return repr(failure), show(stream)
            finally:
                sys.stderr = saved
        for number in range(len(streams())):
            for name in ("print_exception", "print_tb"):
                same(ask, number, name)
        del sys.stderr
        same(lambda module: repr(catch(module.print_tb, error.__traceback__)))
    """)


def test_stacks():
    in_child("""
        def without_caller(texts):
            return texts[:-1]
        def ask(module, limit):
            return without_caller(module.format_stack(limit=limit)), module.format_stack(sys._getframe(1), limit)
        def deep(number):
            if number:
                return deep(number - 1)
            for limit in (None, 0, 1, 3, -1, -3, 100, -100):
                theirs, mine = standard.extract_stack(limit=limit), ours.extract_stack(limit=limit)
                assert theirs == mine and type(theirs) is type(mine) and len(theirs) == len(mine)
                for a, b in zip(theirs, mine):
                    for name in type(a).__slots__:
                        assert getattr(a, name, 0) == getattr(b, name, 0), name
                file, other = io.StringIO(), io.StringIO()
                same(lambda m: m.format_stack(sys._getframe(1), limit))
                standard.print_stack(sys._getframe(), limit, file), ours.print_stack(sys._getframe(), limit, other)
                assert file.getvalue() == other.getvalue()
            here = ours.extract_stack()[-1]
            assert here.name == "deep" and here.lineno == sys._getframe().f_lineno - 1
            ours.print_stack(file=file)
            assert ", in deep\\n" in file.getvalue().splitlines(True)[-1] or ", in deep" in file.getvalue()
        deep(9)
        def generator():
            yield ours.extract_stack()
        assert next(generator())[-1].name == "generator"
    """)


def test_uncommon_arguments():
    in_child("""
        error = catch(divide, 1, 0)
        tb = error.__traceback__
        class Duck:
            tb_frame, tb_lineno, tb_lasti, tb_next = tb.tb_frame, 3, 0, tb
        calls = [
            ("format_exception", (None, None, None)), ("format_exception", (error,)), ("format_exception", (3,)),
            ("format_exception", ()), ("format_exception", (ValueError, error, tb)), ("format_exception", (error, 3)),
            ("format_exception", (error, "x", None)), ("format_exception", (error, error, 3)),
            ("format_exception", (error, error, Duck())), ("format_exception", (error, error, tb, 1.5)),
            ("format_exception", (error, error, tb, True)), ("format_exception", (error, error, tb, "x")),
            ("format_exception", (error, error, tb, None, False)),
            ("format_exception", (error, error, tb, None, True, 3)),
            ("format_exception_only", (None,)), ("format_exception_only", (error,)),
            ("format_exception_only", (KeyError, error)),
            ("format_exception_only", ("x", None)), ("format_exception_only", (error, "x")),
            ("format_tb", (None,)), ("format_tb", (3,)), ("format_tb", (Duck(),)), ("format_tb", ()),
            ("extract_tb", (None, 3)), ("print_tb", (None,)), ("format_stack", (3,)),
            ("extract_stack", (sys._getframe(), 2)),
            ("format_exc", ()), ("format_exc", (1, 2, 3)), ("print_exc", (0, io.StringIO())),
            ("print_exception", (None, None, None)), ("print_last", ()), ("walk_tb", (3,)),
            ("format_list", ([("a", 1, "b", "c")],)),
        ]
        def ask(module, name, args, **kwargs):
            saved, sys.stderr = sys.stderr, io.StringIO()
            try:
                result = getattr(module, name)(*args, **kwargs)
                return (list(result) if isinstance(result, list) else type(result)), sys.stderr.getvalue()
            except Exception as failure:
                return repr(failure)
            finally:
                sys.stderr = saved
        for name, args in calls:
            same(ask, name, args)
        for kwargs in ({"x": 1}, {"limit": 1}, {"tb": tb}, {"value": error}, {"value": error, "tb": tb}, {"chain": 0},
                       {"exc": error},
                       {"etype": error}):
            same(lambda m: ask(m, "format_exception", (error,), **kwargs))
            same(lambda m: ask(m, "print_exception", (error,), **kwargs))
        plain = ours.format_exception(type(error), error, tb, colorize=False)
        assert plain == standard.format_exception(type(error), error, tb)
        ours.format_exception_only(type(error), error, show_group=True)
    """)


def test_string_that_has_side_effects_runs_once():
    in_child("""
        class Counting(Exception):
            calls = 0
            def __str__(self):
                Counting.calls += 1
                linecache.clearcache()
                return "call %d" % self.calls
        error = catch(divide, 1, 0)
        error.__cause__ = Counting()
        error.__cause__.__context__ = catch(divide, 2, 0)
        text(ours, error)
        assert Counting.calls == 1, Counting.calls
        Counting.calls = 0
        theirs = text(standard, error)
        Counting.calls = 0
        assert text(ours, error) == theirs
    """)


def test_long_chains_and_large_groups():
    """Long ones take linear time; what the standard module can't do on a version needn't be compared there."""
    in_child("""
        error = None
        for number in range(10_000):
            new = ValueError(number)
            new.__context__ = error
            error = new
        if sys.version_info >= (3, 10):
            assert len(ours.format_exception(None, error, None)) == 2 * 10_000 - 1
            assert ours.format_exception(None, error, None) == standard.format_exception(None, error, None)
        else:
            same(text, error)
        if hasattr(__import__("builtins"), "ExceptionGroup"):
            group = ExceptionGroup("many", [ValueError(number) for number in range(100_000)])
            assert "and 99985 more exceptions" in same(text, group)
            nested = ValueError("leaf")
            for number in range(60):
                nested = ExceptionGroup("level", [nested, TypeError(number)])
            assert "max_group_depth is 10" in same(text, nested)
        def recurse(number):
            return recurse(number - 1) if number else 1 / 0
        sys.setrecursionlimit(30_000)
        import threading
        threading.stack_size(256 * 1024 * 1024)
        found = []
        thread = threading.Thread(target=lambda: found.append(catch(recurse, 20_000)))
        thread.start()
        thread.join()
        assert "repeated 19" in same(text, found[0])
    """)


def test_lines_of_a_megabyte():
    in_child("""
        name = "long.py"
        for body in ("x = '" + "a" * 1_000_000 + "'; 1 / 0", "[" + "1, " * 300_000 + "1 / 0]",
                     "(" * 50 + "1 / 0" + ")" * 50,
                     "a" + ".b" * 3000, "-" * 300 + "(1 / 0)"):
            source = "a = 3\\n" + body + "\\n"
            linecache.cache[name] = (len(source), None, source.splitlines(True), name)
            try:
                code = compile(source, name, "exec")
            except (RecursionError, MemoryError):
                continue
            error = catch(exec, code)
            same(text, error)
    """)


def test_lines_that_summaries_keep():
    in_child("""
        code = compile("(\\n1 /\\n0\\n)", "kept.py", "exec")
        error = catch(exec, code)
        def kept(module):
            summary = module.extract_tb(error.__traceback__.tb_next)[-1]
            own = [getattr(summary, name, None) for name in ("_line", "_lines", "line", "end_lineno")]
            return own, module.format_list([summary])
        endings = ("\\n", "", " \\n", "\\t", "\\r\\n", "\\x0c\\n", "\\u3000\\n", "\\x1c\\n", "\\n\\n", "\\x85")
        for ending in endings:
            for body in ("  1 /", "", "  ", "\\u4e2d"):
                for lines in ([body + ending] * 4, ["(\\n", "1 /\\n", body + ending], ["(\\n", "1 /\\n"], ["(\\n"]):
                    linecache.cache["kept.py"] = (9, None, lines, "kept.py")
                    same(kept)
    """)


def test_without_columns():
    in_child("same(text, catch(divide, 1, 0)); same(text, catch(eval, '1 / 0'))", "-X", "no_debug_ranges")


def test_warnings_stay_silent_and_imports_few():
    loaded = in_child("print('ast' in sys.modules and 'inspect' not in sys.modules, len(sys.modules))")
    assert loaded


def test_descriptions():
    import traceback

    standard = getattr(traceback, "_faultproof_standard", traceback)
    for name in ("format_exc", "print_exception", "extract_stack"):
        function, original = getattr(ours, name), getattr(standard, name)
        original = getattr(original, "__wrapped__", original)
        assert (function.__name__, function.__module__, function.__doc__) == (name, "traceback", original.__doc__)
        assert inspect.signature(function) == inspect.signature(original)
        assert callable(function) and inspect.isroutine(function)
    assert ours.format_exc_bytes.__module__ == "faultproof.traceback"
    assert ours.__all__ == standard.__all__ and "format_exc_bytes" not in ours.__all__


def test_format_exc_bytes():
    try:
        raise ValueError("\u4e2d\udc80")
    except ValueError:
        text, data = ours.format_exc(), ours.format_exc_bytes()
        limited = ours.format_exc_bytes(limit=0, chain=False)
    assert data == text.encode("utf-8", "backslashreplace")
    assert limited == "ValueError: \u4e2d\\udc80\n".encode()
    assert ours.format_exc_bytes() == b"NoneType: None\n"


def test_a_private_name_is_the_interpreters():
    import traceback

    standard = getattr(traceback, "_faultproof_standard", traceback)
    assert ours._cause_message is standard._cause_message
    ours._faultproof_test_name = 3
    assert standard._faultproof_test_name == 3
    del ours._faultproof_test_name
    assert not hasattr(standard, "_faultproof_test_name") and not hasattr(ours, "_faultproof_test_name")
    with pytest.raises(AttributeError, match="module 'traceback' has no attribute 'nothing'"):
        ours.nothing  # noqa: B018
    assert {"format_exc", "format_exc_bytes", "_cause_message"} <= set(dir(ours))


def test_closed_file():
    stream = io.StringIO()
    stream.close()
    with pytest.raises(ValueError, match="closed"):
        ours.print_exception(ValueError, ValueError(), None, file=stream)
    assert os.path.exists(ours.__file__)
