"""The package as a package: imports, interpreters, versions it doesn't know, what it costs."""

from __future__ import annotations

import inspect
import pathlib
import sys
import sysconfig

import faultproof
import pytest
from faultproof import faulthandler
from helpers import child

FREE_THREADED = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))


def run(code: str, *options: str) -> str:
    result = child(code, *options)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout + result.stderr


def test_a_c_module_with_c_functions():
    assert faulthandler.__file__.endswith(".so")
    for name in ("enable", "disable", "is_enabled", "dump_traceback", "dump_traceback_later", "cancel_dump_traceback_later",
                 "register", "unregister"):  # fmt: skip
        function = getattr(faulthandler, name)
        assert inspect.isbuiltin(function) and function.__doc__
        assert inspect.signature(function)


def test_capabilities():
    found = faultproof.capabilities()
    assert found["faulthandler"] is True and found["reason"] == ""
    assert found["free_threaded"] is FREE_THREADED
    assert found["reader"] in ("guarded copy", "process_vm_readv", "/proc/self/mem", "pipe")


@pytest.mark.parametrize("version", ["0x03630000", "0x03080000", "nonsense"])
def test_a_version_that_is_not_known(version):
    code = """
import sys, warnings, faulthandler as standard
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import faultproof, faultproof.faulthandler as fh
    import faultproof.faulthandler
assert [w.category for w in caught] == [RuntimeWarning], caught
assert "version" in str(caught[0].message), caught[0].message
assert fh.enable is standard.enable and fh.dump_traceback is standard.dump_traceback
found = faultproof.capabilities()
assert found["faulthandler"] is False and "version" in found["reason"], found
fh.dump_traceback()
"""
    assert "line 13 in <module>" in run(code, "-X", f"faultproof-version={version}")


@pytest.mark.skipif(not FREE_THREADED, reason="only a free-threaded build can lose its freedom")
def test_the_gil_stays_off():
    run(
        "import sys, faultproof, faultproof.faulthandler as f; f.enable(); assert not sys._is_gil_enabled()",
        "-W",
        "error",
    )


@pytest.mark.skipif(sys.version_info < (3, 12), reason="interpreters with a GIL of their own came with 3.12")
def test_subinterpreters():
    code = """
import os
try: import _interpreters as interpreters
except ImportError: import _xxsubinterpreters as interpreters
import faultproof.faulthandler as fh
ids = [interpreters.create() for i in range(3)]
for i in ids:
    failed = interpreters.run_string(i, "import faultproof.faulthandler as f; f.enable(1); f.dump_traceback(1); assert f.is_enabled()")
    assert failed is None, failed
assert fh.is_enabled()
for i in ids: interpreters.destroy(i)
assert fh.is_enabled() and fh.disable()
"""
    assert run(code).count("Current thread") == 3


@pytest.mark.skipif(sys.version_info < (3, 12), reason="interpreters with a GIL of their own came with 3.12")
def test_the_descriptor_outlives_its_interpreter(tmp_path):
    code = f"""
try: import _interpreters as interpreters
except ImportError: import _xxsubinterpreters as interpreters
import faultproof.faulthandler as fh
i = interpreters.create()
interpreters.run_string(i, "import faultproof.faulthandler as f; f.enable(open({str(tmp_path / "report")!r}, 'w'))")
interpreters.destroy(i)
open("/dev/null"), open("/dev/null")  # would take the number
fh._sigsegv()
"""
    assert child(code).returncode == -11
    assert (tmp_path / "report").read_text().startswith("Fatal Python error")


def test_under_e_and_i():
    code = "import faultproof.faulthandler as f; f.enable(); print(f.is_enabled())"
    path = str(pathlib.Path(faultproof.__file__).parent.parent)
    for option in ("-E", "-I"):
        assert run(f"import sys; sys.path.insert(0, {path!r})\n" + code, option) == "True\n"


def test_memory():
    """Anonymous memory grows by less than 1 MiB on import and enable, and by nothing with a report."""
    code = """
import faulthandler, os, threading, traceback  # what any program has
def anonymous():
    for line in open("/proc/self/smaps_rollup"):
        if line.startswith("Anonymous:"): return int(line.split()[1])
null = os.open(os.devnull, 1)
before = anonymous()
import faultproof.faulthandler as fh
fh.enable(null)
after = anonymous()
assert after - before < 1024, after - before
for i in range(20): fh.dump_traceback(null)
warm = anonymous()
for i in range(2000): fh.dump_traceback(null)
assert anonymous() - warm < 64, anonymous() - warm
"""
    run(code)


def test_a_dump_allocates_nothing():
    code = """
import ctypes, os, faultproof.faulthandler as fh
class Info(ctypes.Structure):
    _fields_ = [(n, ctypes.c_size_t) for n in "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split()]
libc = ctypes.CDLL(None)
if not hasattr(libc, "mallinfo2"): raise SystemExit("no mallinfo2: glibc before 2.33")
libc.mallinfo2.restype = Info
null = os.open(os.devnull, 1)
dump = fh.dump_traceback
for i in range(3): dump(null); a = libc.mallinfo2().uordblks
for i in range(100): dump(null)
assert libc.mallinfo2().uordblks == a
"""
    run(code)


def test_reference_counts():
    code = """
import gc, os, sys, faultproof.faulthandler as fh
file = open(os.devnull, "w")
def f(): pass
fh.enable(file); fh.enable(2)
start = sys.getrefcount(file), sys.getrefcount(f.__code__), sys.getrefcount(fh)
for i in range(1000):
    fh.enable(file); fh.dump_traceback(file); fh.dump_traceback_later(100, file=file); fh.register(10, file=file)
    fh.unregister(10); fh.cancel_dump_traceback_later(); fh.disable()
    try: fh.enable("x")
    except AttributeError: pass
    try: fh.dump_traceback_later(float("nan"), file=file)
    except ValueError: pass
assert (sys.getrefcount(file), sys.getrefcount(f.__code__), sys.getrefcount(fh)) == start
"""
    run(code)


def test_the_file_is_kept_alive():
    code = """
import os, faultproof.faulthandler as fh, weakref
file = open(os.devnull, "w"); ref = weakref.ref(file)
fh.enable(file); fd = file.fileno(); del file
assert ref() is not None and os.fstat(fd)
fh.enable(2); assert ref() is None
"""
    run(code)
