"""dump_traceback() writes what the running interpreter's faulthandler writes, byte for byte."""

from __future__ import annotations

import sys
import tempfile
import textwrap

import capi_support
import pytest
from helpers import SIDE_BY_SIDE, child, side_by_side

PROGRAMS = {
    "module level": "both()",
    "nested calls": """
        def a(): both()
        def b(): a()
        class C:
            def m(self): b()
        (lambda: C().m())()
        list(map(lambda x: both(all_threads=False), [1]))
    """,
    "generators and coroutines": """
        def g():
            both()
            yield from h()
        def h():
            both()
            yield 1
        list(g())
        async def c():
            both()
            await d()
        async def d():
            both()
        try: c().send(None)
        except StopIteration: pass
        [both() for i in range(2)]
        {k: both() for k in (1,)}
    """,
    "deep recursion": """
        sys.setrecursionlimit(6000)
        def f(n):
            if n: return f(n - 1)
            both(all_threads=False); both()
        for n in (96, 97, 98, 99, 100, 101, 255, 256, 257, 1100, 3000): f(n)
    """,
    "names of every length and kind": """
        names = ["x" * n for n in (0, 1, 7, 8, 9, 15, 16, 17, 499, 500, 501, 502, 5000)]
        names += ["\\x7f", "\\x1f", " ", "\\t\\n", "caf\\xe9", "\\u20ac" * 10, "\\U0001f600" * 3, "\\ud800", "a\\udcffb"]
        names += ["\\xe9" * 499, "\\xe9" * 500, "\\xe9" * 501, "\\u20ac" * 500 + "x", "\\U0001f600" * 500, "abcdefg\\x00h"]
        def f(): both(all_threads=False)
        for name in names:
            for change in ({"co_name": name}, {"co_filename": name}, {"co_name": name, "co_filename": name}):
                type(f)(f.__code__.replace(**change), globals())()
    """,
    "lines far apart and backwards": """
        source = "def f():\\n" + "\\n" * 70000 + "    both()\\n" + "\\n" * 300 + "    g(\\n\\n 1,\\n  both(),\\n\\n)\\n"
        exec(compile(source, "far", "exec"), globals())
        g = lambda *a: both()
        f()
        exec(compile(source, "far", "exec").replace(co_firstlineno=100000), globals())
        def loop():
            for i in range(3):
                try:
                    if i: both()
                    else: raise ValueError
                except ValueError:
                    both()
                finally:
                    both()
        loop()
    """,
    "traced frames": """
        def trace(frame, event, arg):
            if event == "line" and frame.f_code.co_name == "f" and frame.f_lineno == frame.f_code.co_firstlineno + 1:
                frame.f_lineno += 1
            return trace
        def f():
            both()
            both()
            def g(): both()
            g()
        sys.settrace(trace); f(); sys.settrace(None); f()
    """,
    "a destructor": """
        class D:
            def __del__(self): both()
        d = D(); del d
        import gc
        a = D(); a.a = a; del a; gc.collect()
    """,
}


@pytest.mark.parametrize("program", PROGRAMS)
def test_the_same_text(program):
    side_by_side(PROGRAMS[program])


def still_threads(n: int) -> str:
    """n threads that wait in C for good, so that both modules see the same."""
    return f"""
        import _thread, time
        locks = [_thread.allocate_lock() for i in range({n})]
        for lock in locks: lock.acquire()
        def wait(lock):
            lock.acquire()
        for lock in locks: _thread.start_new_thread(wait, (lock,))
        # who is on that line without holding the GIL is inside of acquire()
        line = wait.__code__.co_firstlineno + 1
        while sum(f.f_lineno == line for f in sys._current_frames().values()) < {n}: time.sleep(0)
    """


@pytest.mark.parametrize("n", [3, 98, 99])
def test_up_to_the_limit_of_threads(n):
    side_by_side(still_threads(n) + "\n        both(); both(all_threads=False)\n        os._exit(0)")


@pytest.mark.parametrize("n", [100, 101, 300])
def test_the_current_thread_is_shown_whatever_its_place(n):
    out = side_by_side(
        still_threads(n) + "\n        ours.dump_traceback(1)\n        sys.stdout.flush()\n        os._exit(0)"
    )
    assert out.startswith("Current thread 0x")
    assert out.count("Thread 0x") == 100
    assert out.endswith("\n\n...\n") == (n > 100)  # with 100 others all are shown


@pytest.mark.skipif(sys.version_info < (3, 15), reason="max_threads= came with 3.15")
def test_max_threads_as_there():
    side_by_side(still_threads(5) + "\n        for n in (6, 7, 100, 0): both(max_threads=n)\n        os._exit(0)")


def test_limits_are_defaults_not_walls():
    code = """
        sys.setrecursionlimit(5000)
        def f(n):
            if n: return f(n - 1)
            with tempfile.TemporaryFile() as file:
                ours.dump_traceback(file, all_threads=False, max_frames=2500, max_chars=3)
                lines = text(file).decode().splitlines()
                assert len(lines) == 2003, len(lines)
                assert lines[1].startswith('  File "<st...", line '), lines[1]
        f(2000)
    """
    side_by_side(code)


CALLS = [
    f"{function}({arguments})"
    for function, argument_lists in {
        "dump_traceback": ["-1", "'x'", "1 << 70", "-1 << 70", "1.5", "object()", "BadFile()", "NotAnInt()", "2, 'x'", "2, 1.5",
                           "2, None", "unknown=1", "2, True, 1, 2, 3", "file=-1", "all_threads=0, file='x'", "Huge()"],
        "enable": ["-1", "'x'", "1 << 70", "1.5", "object()", "BadFile()", "2, 'x'", "2, 1.5", "unknown=1"],
        "disable": ["1"],
        "is_enabled": ["1"],
        "dump_traceback_later": ["", "-1", "0", "-0.0", "'x'", "None", "1 << 70", "float('nan')", "float('inf')", "1e300", "-1e-9",
                                 "10, file=-1", "10, file='x'", "10, 'x'", "10, exit='x'"],
        "register": ["", "-1", "0", "65", "10 ** 6", "1 << 70", "1 << 40", "-1 << 40", "-1 << 80", "'x'", "None", "1.5", "11", "8", "6",
                     "4", "7", "9", "19", "10, -1",
                     "10, 'x'", "10, 2, 'x'"],
        "unregister": ["", "-1", "0", "65", "'x'", "11", "1 << 70", "10"],
    }.items()
    for arguments in argument_lists
]  # fmt: skip


def test_bad_input_raises_what_the_standard_module_raises():
    code = f"""
        class BadFile:
            def fileno(self): raise OSError(5, "no descriptor")
        class NotAnInt:
            def fileno(self): return "2"
        class Huge:
            def fileno(self): return 1 << 40
        def outcome(module, call):
            try: return eval(call, dict(vars(module), BadFile=BadFile, NotAnInt=NotAnInt, Huge=Huge))
            except BaseException as error: return type(error).__name__, str(error).replace("faultproof.", "")
        sys.stderr = open(os.devnull, "w"); os.dup2(sys.stderr.fileno(), 2)
        different = []
        for call in {CALLS!r}:
            a, b = outcome(standard, call), outcome(ours, call)
            standard.cancel_dump_traceback_later(); ours.cancel_dump_traceback_later()
            if a != b: different.append((call, a, b))
        for line in different: print(*line, sep=" | ")
    """
    out = side_by_side(code)
    # the number of arguments is said by the interpreter, which knows our further keywords
    rest = [line for line in out.splitlines() if "argument" not in line.split("|")[1]]
    assert rest == []


def test_a_flushed_file_and_errno():
    code = """
        import ctypes
        file = open(sys.argv[1] if len(sys.argv) > 1 else os.devnull, "w")
        with tempfile.NamedTemporaryFile("w+") as file:
            file.write("before\\n")
            ours.dump_traceback(file, all_threads=False)
            assert open(file.name).read().startswith("before\\nStack (most")
        libc = ctypes.CDLL(None, use_errno=True)
        ctypes.set_errno(77)
        ours.dump_traceback(1)
        assert ctypes.get_errno() == 77
    """
    side_by_side(code)


def test_output_that_is_closed_does_not_raise_or_kill():
    result = child(
        SIDE_BY_SIDE
        + textwrap.dedent(
            """
            import signal
            signal.signal(signal.SIGPIPE, signal.SIG_DFL)
            r, w = os.pipe()
            os.close(r)
            ours.dump_traceback(w)  # EPIPE: no SIGPIPE may kill
            ours.dump_traceback(1000)  # EBADF
            full = os.open("/dev/full", os.O_WRONLY)
            ours.dump_traceback(full)  # ENOSPC
            r, w = os.pipe()
            os.set_blocking(w, False)
            try:
                while True: os.write(w, b"x" * 65536)
            except BlockingIOError: pass
            print("alive")
            """
        )
    )
    assert (result.returncode, result.stdout) == (0, "alive\n"), result.stderr


def test_beside_an_interpreter_that_another_thread_runs():
    """3.12: its thread state is attached, and has the id of who made it, who dumps here."""
    from faulthandler import dump_traceback as standard

    from faultproof.faulthandler import dump_traceback

    texts = []
    with capi_support.interpreter_in_a_thread("os.write(READY, b'x')\nwhile not os.path.exists(STOP): pass\n"):
        for dump in (standard, dump_traceback):
            with tempfile.TemporaryFile("w+") as out:
                dump(out, all_threads=False)
                out.seek(0)
                texts.append(out.read())
    assert texts[0] == texts[1] and "in test_beside" in texts[1]
