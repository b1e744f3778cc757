"""faultproof.install() and uninstall() for traceback: identity, pickles, what gains from it."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import textwrap


def in_child(program: str, *options: str, **environment: str) -> str:
    command = [sys.executable, *options, "-c", textwrap.dedent(program)]
    result = subprocess.run(
        command, capture_output=True, text=True, errors="replace", timeout=300, env={**os.environ, **environment}
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def test_nothing_is_installed_by_an_import():
    in_child("""
        import sys, traceback
        before = dict(vars(traceback))
        import faultproof, faultproof.traceback
        assert sys.modules["traceback"] is traceback
        changed = [name for name in before if vars(traceback)[name] is not before[name] and not name.startswith("__")]
        assert changed in ([], ["_colorize"]), changed
    """)


def test_the_import_loads_nothing_else():
    in_child("""
        import sys, traceback
        before = set(sys.modules)
        import faultproof.traceback
        loaded = {name.partition(".")[0] for name in set(sys.modules) - before}
        assert loaded <= {"faultproof", "__future__", "importlib", "warnings"}, loaded
    """)


def test_identity_and_idempotence():
    in_child("""
        import sys, traceback as standard
        from traceback import format_exc as bound_earlier
        before = {name: getattr(standard, name) for name in standard.__all__}
        import faultproof
        faultproof.uninstall()
        for _ in range(3):
            faultproof.install()
            faultproof.install()
            import traceback
            import faultproof.traceback as ours
            assert traceback is standard is sys.modules["traceback"] and ours is sys.modules["faultproof.traceback"]
            assert standard.format_exc is ours.format_exc is not before["format_exc"]
            assert bound_earlier is before["format_exc"]
            assert traceback.TracebackException is before["TracebackException"]
            faultproof.uninstall()
            faultproof.uninstall()
            assert sys.modules["traceback"] is standard
            assert all(getattr(standard, name) is value for name, value in before.items())
            import traceback
            assert traceback is standard
            assert ours.format_exc is not standard.format_exc
    """)


def test_what_was_replaced_meanwhile_stays():
    in_child("""
        import faultproof, traceback as standard
        faultproof.install()
        import traceback
        mine = lambda: "mine"
        traceback.format_exc = mine
        assert standard.format_exc is mine
        faultproof.uninstall()
        assert standard.format_exc is mine
    """)


def test_logging_and_others_use_it():
    in_child("""
        import concurrent.futures, io, logging, unittest
        import traceback as standard
        import faultproof
        calls = []
        faultproof.install()
        import faultproof.traceback as ours
        assert logging.traceback.print_exception is ours.print_exception
        stream = io.StringIO()
        logger = logging.Logger("x")
        logger.addHandler(logging.StreamHandler(stream))
        try:
            1 / 0
        except ZeroDivisionError:
            logger.exception("failed", stack_info=True)
        text = stream.getvalue()
        assert "ZeroDivisionError: division by zero" in text and "Stack (most recent call last)" in text
        faultproof.uninstall()
        stream.truncate(0), stream.seek(0)
        try:
            1 / 0
        except ZeroDivisionError:
            logger.exception("failed", stack_info=True)
        changed = [pair for pair in zip(text.splitlines(), stream.getvalue().splitlines()) if pair[0] != pair[1]]
        assert all("line" in pair[0] for pair in changed)
    """)


def test_stacks_extracted_by_anyone():
    """StackSummary.extract() with install() and without: the same stacks, errors, and the same left of the generator."""
    in_child("""
        import io, sys, linecache, traceback as standard
        from traceback import walk_stack, walk_tb, StackSummary, TracebackException
        import faultproof

        def raiser(n):
            x = [n]
            if n:
                raiser(n - 1)
            x.missing + (1
                         / 0)

        try:
            raiser(4)
        except AttributeError as error:
            raised = error

        class Mine(StackSummary):
            pass

        def rest(generator):
            return [(frame.f_code, line) for frame, line in generator]

        def begun(generator):
            next(generator)
            return generator

        def kept(limit, walker, **options):
            generator = walker()
            stack = StackSummary.extract(generator, limit=limit, **options)
            return stack, rest(generator)

        def attributes(summary):
            names = ("filename", "lineno", "end_lineno", "colno", "end_colno", "name", "locals", "_line", "_lines", "_code")
            values = [getattr(summary, name, "none") for name in names]
            return values, summary.line, [getattr(summary, name, "none") for name in names]

        def described(value):
            if isinstance(value, StackSummary):
                return type(value), [attributes(summary) for summary in value], value.format()
            return value

        def printed(stack):
            file = io.StringIO()
            return standard.print_list(stack, file=file), file.getvalue()

        def changed(stack, **values):
            for name, value in values.items():
                if hasattr(stack[1], name):
                    setattr(stack[1], name, value)
            return standard.format_list(stack), stack.format()

        def cases():
            here, tb = sys._getframe(), raised.__traceback__
            stack, lines = lambda: walk_stack(here), lambda: walk_tb(tb)
            for limit in (None, 0, 1, 3, 100, -1, -3, -100, True, 2**70, "2", 1.5):
                for lookup in (True, False):
                    yield lambda: StackSummary.extract(stack(), limit=limit, lookup_lines=lookup)
                    yield lambda: StackSummary.extract(lines(), limit=limit, lookup_lines=lookup)
                    yield lambda: kept(limit, stack, lookup_lines=lookup)
                    yield lambda: kept(limit, lines)
                    yield lambda: StackSummary.extract(walk_stack(None), limit=limit, lookup_lines=lookup)
                yield lambda: list(TracebackException.from_exception(raised, limit=limit).format())
                yield lambda: TracebackException.from_exception(raised, limit=limit, lookup_lines=False).stack
                yield lambda: standard.format_list(StackSummary.extract(lines(), limit=limit))
                yield lambda: printed(list(standard.extract_tb(tb, limit)))
            yield lambda: StackSummary.extract(walk_tb(None))
            yield lambda: StackSummary.extract(walk_tb(tb.tb_next), capture_locals=True)
            yield lambda: TracebackException(type(raised), raised, tb.tb_next, capture_locals=True).stack
            yield lambda: Mine.extract(stack())
            yield lambda: StackSummary.extract(begun(stack()))
            yield lambda: StackSummary.extract(begun(lines()))
            yield lambda: StackSummary.extract(list(lines()))
            yield lambda: StackSummary.extract(iter([(here, None)]))
            yield lambda: StackSummary.extract((frame, 1) for frame, line in stack())
            extract = lambda: standard.extract_tb(tb)
            for number in (None, -1, 0, 1, 4, 6, 7, 30, 2**40, True, "3", 2.5):
                for name in ("lineno", "end_lineno", "colno", "end_colno"):
                    yield lambda: changed(extract(), **{name: number})
            for text in (None, "", "x", "x + y", "x + y\\n", "a\\nb\\n", "\\n", " \\n\\n", 5, "a\\r\\n"):
                for name in ("_line", "_lines", "filename", "name"):
                    yield lambda: changed(extract(), **{name: text})
            yield lambda: changed(extract(), locals={"b": "1", "a": "2"})
            yield lambda: changed(extract(), locals={})
            yield lambda: standard.format_list([("file", 1, "name", "line"), ("file", 1, "name", None)])
            yield lambda: standard.format_list(list(extract()) + [("file", 1, "name", " line ")])
            yield lambda: standard.format_list(tuple(extract()))
            yield lambda: standard.format_list(iter(extract()))
            yield lambda: standard.format_list(extract() * 7)
            yield lambda: StackSummary.from_list([frame for frame in extract() for _ in range(5)]).format()
            yield lambda: standard.format_list(Mine(extract()))
            yield lambda: Mine(extract()).format()
            yield lambda: StackSummary([1]).format()
            yield lambda: standard.format_list([])
            yield lambda: standard.format_list(extracted_list=extract())
            yield lambda: standard.format_list()
            yield lambda: standard.format_list(5)
            yield lambda: standard.print_list(extract(), 1, 2)
            yield lambda: StackSummary.format()
            yield lambda: StackSummary.format(5)
            yield lambda: extract().format(1)
            yield lambda: extract().format(colorize=False)
            yield lambda: extract().format(colorize=True)
            yield lambda: StackSummary.extract(walk_tb(5))
            yield lambda: StackSummary.extract(5)
            yield lambda: StackSummary.extract()
            yield lambda: StackSummary.extract(stack(), None)
            yield lambda: StackSummary.extract(frame_gen=stack())
            yield lambda: StackSummary.extract(stack(), unknown=1)
            yield lambda: StackSummary().extract(stack())

        def outcomes():
            result = []
            for case in cases():
                try:
                    value = case()
                    result.append(tuple(map(described, value)) if isinstance(value, tuple) else described(value))
                except Exception as error:
                    result.append((type(error), str(error)))
            return result

        results, before = [], dict(vars(StackSummary))
        for round in range(4):
            if round == 2:
                faultproof.install()
                assert "faultproof" in repr(StackSummary.extract.__func__)
            results.append(outcomes())
        faultproof.uninstall()
        assert len(results[0]) > 250
        for other in results[1:]:
            for number, (a, b) in enumerate(zip(results[0], other)):
                assert a == b, (number, a, b)
        assert dict(vars(StackSummary)) == before

        # what somebody else puts there stays, and is called
        faultproof.install()
        StackSummary.extract = classmethod(lambda klass, frames, **options: "theirs")
        assert StackSummary.extract(walk_tb(None)) == "theirs"
        faultproof.uninstall()
        assert StackSummary.extract(walk_tb(None)) == "theirs"
        faultproof.install()
        assert StackSummary.extract(walk_tb(None)) == "theirs"
    """)


def test_fresh_import_of_the_module_while_installed():
    in_child("""
        import sys, faultproof
        faultproof.install()
        import faultproof.traceback as first
        del sys.modules["faultproof.traceback"]
        import faultproof.traceback as second
        assert second._faultproof_standard is first._faultproof_standard
        try:
            1 / 0
        except ZeroDivisionError:
            assert second.format_exc() == first.format_exc()
    """)


def test_pickles_load_without_faultproof(tmp_path):
    path = str(tmp_path / "pickles")
    in_child(f"""
        import copy, pickle, sys
        import faultproof, faultproof.traceback as ours
        try:
            1 / 0
        except ZeroDivisionError as error:
            summary = list(ours.extract_tb(error.__traceback__))
            before = pickle.dumps(ours.format_exc)
        assert copy.copy(ours.format_exc) is ours.format_exc and copy.deepcopy(ours.print_exc) is ours.print_exc
        faultproof.install()
        import traceback
        after = pickle.dumps(traceback.format_exc)
        assert pickle.loads(after) is traceback.format_exc
        assert pickle.loads(pickle.dumps(ours.format_exc_bytes)) is ours.format_exc_bytes
        if not hasattr(traceback.FrameSummary, "_code"):
            after_summary = pickle.dumps(summary)
        else:
            after_summary = pickle.dumps(None)  # holds a code object, as in the standard module
        with open({path!r}, "wb") as file:
            pickle.dump([before, after, after_summary], file)
    """)
    loaded = in_child(
        f"""
        import pickle, sys
        sys.modules["faultproof"] = None
        with open({path!r}, "rb") as file:
            parts = [pickle.loads(part) for part in pickle.load(file)]
        import traceback
        assert parts[0] is traceback.format_exc and parts[1] is traceback.format_exc
        print("loaded")
        """
    )
    assert loaded == "loaded\n"
    assert pickle.loads(pickle.dumps(3)) == 3


def test_subclasses_and_other_uses():
    in_child("""
        import faultproof
        faultproof.install()
        import traceback
        class Mine(traceback.TracebackException):
            def format(self, **kwargs):
                yield "mine"
        class Stack(traceback.StackSummary):
            def format_frame_summary(self, summary, **kwargs):
                return summary.name + "\\n"
        try:
            1 / 0
        except ZeroDivisionError as error:
            assert list(Mine.from_exception(error).format()) == ["mine"]
            stack = Stack.extract(traceback.walk_tb(error.__traceback__))
            import sys
            if sys.version_info >= (3, 11):
                assert stack.format() == ["<module>\\n"]
            tb = error.__traceback__
            assert traceback.format_list(traceback.extract_tb(tb)) == traceback.format_tb(tb)
        class WithMethod:
            show = traceback.format_exception_only
        assert WithMethod().show.__self__.__class__ is WithMethod
    """)


def test_at_the_end_of_the_process():
    output = in_child("""
        import atexit, sys, faultproof
        faultproof.install()
        import traceback
        class Late:
            def __del__(self):
                try:
                    1 / 0
                except ZeroDivisionError:
                    print(traceback.format_exc().splitlines()[-1], flush=True)
        keep = Late()
        sys.modules["__main__"].keep = keep
        atexit.register(lambda: print("at exit", flush=True))
    """)
    assert output.startswith("at exit\n")


def test_in_subinterpreters():
    in_child("""
        try:
            import _interpreters as interpreters
        except ImportError:
            try:
                import _xxsubinterpreters as interpreters
            except ImportError:
                raise SystemExit(0)
        import faultproof
        faultproof.install()
        program = '''if True:
            import faultproof
            faultproof.install()
            import traceback
            for _ in range(50):
                try:
                    1 / 0
                except ZeroDivisionError:
                    assert "division by zero" in traceback.format_exc()
            faultproof.uninstall()
        '''
        import traceback
        for _ in range(3):
            one = interpreters.create()
            error = interpreters.run_string(one, program)
            assert error is None, error
            interpreters.destroy(one)
            try:
                1 / 0
            except ZeroDivisionError:
                assert "division by zero" in traceback.format_exc()
    """)
