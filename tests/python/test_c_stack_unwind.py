"""The C stack's text, from a call and from a signal handler: by the private functions that tests use."""

import ctypes
import faulthandler as standard
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap

import pytest

HEADER = "Current thread's C stack trace (most recent call first):"
FRAME = re.compile(r'  Binary file "(?P<file>.+)"(, at (?P<symbol>\S*)\+0x[0-9a-f]+)? \[0x[0-9a-f]+\]')
SHOW_ON = """
import ctypes, os, signal
from faultproof import faulthandler
format_ = getattr(ctypes.pythonapi, "_Py_FatalErrorFormat", None)
address = ctypes.cast(format_, ctypes.c_void_p).value if format_ else 0
def show_on(signo):
    faulthandler._c_stack_on(signo, 1, address)
"""


def run(code, *args, code_before="", **env):
    done = subprocess.run(
        [sys.executable, "-c", code_before + textwrap.dedent(code), *args],
        env={**os.environ, "PYTHONFAULTHANDLER": "", **env},
        capture_output=True,
        stdin=subprocess.DEVNULL,
        encoding="utf-8",
        timeout=60,
    )
    return done.returncode, done.stdout.splitlines(), done.stderr


def stack_of(lines):
    assert lines[0] == HEADER
    end = next((i for i, line in enumerate(lines) if i and not line.startswith("  ")), len(lines))
    frames = [FRAME.fullmatch(line) for line in lines[1:end]]
    assert all(frames), lines
    return frames


def crash(code, signo, *args, **env):
    """The frames that the signal handler shows, and whether they are in Py_FatalError."""
    status, lines, stderr = run(f"show_on({int(signo)})\n" + textwrap.dedent(code), *args, code_before=SHOW_ON, **env)
    assert status == 7, stderr
    assert lines[-1] in ("Py_FatalError: 0", "Py_FatalError: 1")
    return stack_of(lines), lines[-1].endswith("1")


def test_own_stack():
    status, lines, stderr = run("from faultproof import faulthandler; faulthandler._c_stack(1)")
    assert status == 0, stderr
    frames = stack_of(lines)
    assert "faultproof/faulthandler" in frames[0]["file"]
    assert any(f["symbol"] == "PyEval_EvalCode" for f in frames)
    assert frames[-1]["symbol"] == "_start"


def test_worker_thread():
    """A thread's stack ends where the C library starts it, and says nothing of a missing caller."""
    code = """
    import threading
    from faultproof import faulthandler
    thread = threading.Thread(target=faulthandler._c_stack, args=(1,))
    thread.start()
    thread.join()
    """
    status, lines, stderr = run(code)
    assert status == 0, stderr
    frames = stack_of(lines)
    assert len(frames) > 4
    assert "libc.so" in frames[-1]["file"] or "libpthread" in frames[-1]["file"]


def test_no_more_than_32_frames():
    code = """
    from faultproof import faulthandler
    class Deep:
        def __init__(self, n): self.n = n
        def __lt__(self, other):
            if self.n:
                return sorted([Deep(self.n - 1), Deep(self.n - 1)]) is None
            faulthandler._c_stack(1)
            return False
    sorted([Deep(20), Deep(20)])
    """
    status, lines, stderr = run(code)
    assert status == 0, stderr
    assert len(lines) == 34
    assert lines[-1] == "  <truncated rest of calls>"
    stack_of(lines[:-1])


@pytest.mark.skipif(not hasattr(standard, "dump_c_stack"), reason="the standard module has it since 3.14")
def test_same_text_as_the_standard_module():
    code = """
    import faulthandler as standard
    from faultproof import faulthandler as ours
    def first(): standard.dump_c_stack(1)
    def second(): ours._c_stack(1)
    for show in (first, second):
        show()
        print(flush=True)
    """
    status, lines, stderr = run(code)
    assert status == 0, stderr
    half = lines.index("")
    theirs, mine = lines[1:half], lines[half + 2 : -1]
    start = next(i for i, line in enumerate(theirs) if "PyEval_EvalCode" in line)
    assert len(theirs) - start > 3
    assert mine[start - len(theirs) :] == theirs[start:]


def test_crash_begins_with_the_fault():
    frames, fatal = crash("import ctypes; ctypes.string_at(16)", signal.SIGSEGV)
    assert "libc.so" in frames[0]["file"]
    assert not any("faultproof" in f["file"] for f in frames)
    assert len(frames) > 5
    assert not fatal


def test_call_of_null():
    frames, _ = crash("import ctypes; ctypes.CFUNCTYPE(None)(0)()", signal.SIGSEGV)
    assert frames[0][0] == '  Binary file "<unknown>" [0x0]'
    assert "libffi" in frames[1]["file"] or "_ctypes" in frames[1]["file"]
    assert frames[-1]["symbol"] == "_start"


def test_abort_is_not_py_fatalerror():
    frames, fatal = crash("os.abort()", signal.SIGABRT)
    assert [f["symbol"] for f in frames[:3]].count("abort") == 1
    assert not any("faultproof" in f["file"] for f in frames)
    assert not fatal


@pytest.mark.parametrize(
    "call",
    [
        "Py_FatalError(b'x')",
        "_Py_FatalErrorFunc(b'f', b'x')",
        "_Py_FatalErrorFormat(b'f', b'%d', 5)",
    ],
)
@pytest.mark.parametrize("library", ["pythonapi", "PyDLL(None)"])
def test_py_fatalerror_is_known(call, library):
    if not hasattr(ctypes.pythonapi, call.partition("(")[0]):
        pytest.skip("this CPython doesn't export the function")
    frames, fatal = crash(f"ctypes.{library}.{call}", signal.SIGABRT)
    assert "abort" in [f["symbol"] for f in frames[:4]]
    assert fatal


def test_py_fatalerror_in_a_c_thread():
    """From a thread that Python doesn't know, by the module's own call."""
    code = "from faultproof import faulthandler; faulthandler._fatal_error_c_thread()"
    frames, fatal = crash(code, signal.SIGABRT)
    assert fatal
    assert len(frames) > 4


BLOCKS = r"""
#include <stdlib.h>
#include <unistd.h>
__attribute__((constructor)) static void block(void)
{
    char c;
    if (write(atoi(getenv("READY")), "x", 1) != 1 || read(atoi(getenv("BLOCK")), &c, 1) != 1)
        abort();
}
"""


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler for a library with a constructor")
def test_while_a_constructor_holds_the_loader(tmp_path):
    """The constructor never ends by itself: a report that waited for the loader's lock wouldn't either."""
    source, library = tmp_path / "blocks.c", tmp_path / "blocks.so"
    source.write_text(BLOCKS)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", str(library), str(source)], check=True)
    code = """
    import sys, threading
    ready, block = os.pipe(), os.pipe()
    os.environ["READY"], os.environ["BLOCK"] = str(ready[1]), str(block[0])
    dlopen = ctypes.CDLL(None).dlopen  # releases the GIL, which CDLL() itself doesn't everywhere
    threading.Thread(target=dlopen, args=(sys.argv[1].encode(), os.RTLD_NOW), daemon=True).start()
    os.read(ready[0], 1)
    os.abort()
    """
    frames, _ = crash(code, signal.SIGABRT, str(library))
    assert "abort" in [f["symbol"] for f in frames[:3]]


@pytest.mark.skipif(sys.version_info < (3, 14), reason="this CPython has no machine code made at run time")
def test_code_made_by_the_interpreter():
    """A hot loop, so that the interpreter's JIT, if it has one, has compiled it."""
    code = """
    from faultproof import faulthandler
    class Shows:
        def __init__(self, n): self.n = n
        def __index__(self):
            if self.n == 99999:
                faulthandler._c_stack(1)
            return 1
    def loop():
        total, items = 0, [Shows(i) for i in range(100000)]
        for i in range(100000):
            total += (3, 4)[items[i]]
        return total
    loop()
    """
    status, lines, stderr = run(code, PYTHON_JIT="1")
    assert status == 0, stderr
    frames = stack_of(lines)
    assert frames[-1]["symbol"] == "_start"
