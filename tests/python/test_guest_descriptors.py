"""Descriptors: what a subinterpreter duplicates is closed when nothing uses it any more."""

from __future__ import annotations

import sys

import pytest
from helpers import child

PRELUDE = """
import os, sys, tempfile
try: import _interpreters as interpreters
except ImportError: import _xxsubinterpreters as interpreters
from faultproof import faulthandler as fh
def create(own_gil):
    if own_gil: return interpreters.create()
    try: return interpreters.create("legacy")
    except TypeError:
        try: return interpreters.create(isolated=False)
        except TypeError: return interpreters.create()
def run(i, code):
    failed = (getattr(interpreters, "exec", None) or interpreters.run_string)(i, code)
    assert failed is None, failed
def descriptors(): return len(os.listdir("/proc/self/fd"))
"""
USE = """
import signal
from faultproof import faulthandler as fh
for i in range(2):
    fh.enable({file}); fh.dump_traceback_later(1000, file={file}); fh.register(signal.SIGUSR1, {file})
"""
OPPOSITES = "fh.disable(); fh.cancel_dump_traceback_later(); fh.unregister(signal.SIGUSR1)\n"
OWN_GIL = pytest.param(
    True, marks=pytest.mark.skipif(sys.version_info < (3, 12), reason="a GIL of one's own came with 3.12")
)


def run(code: str, expected: int = 0) -> str:
    result = child(PRELUDE + code)
    assert result.returncode == expected, (result.returncode, result.stdout, result.stderr)
    return result.stdout


@pytest.mark.parametrize("own_gil", [False, OWN_GIL])
@pytest.mark.parametrize("opposites", [True, False])
@pytest.mark.parametrize("file", ["None", "open('/dev/null', 'w')"])
def test_interpreters_that_come_and_go(file, opposites, own_gil):
    """Without the opposites the last one's files stay in use, one for each function; with a standard one there is none."""
    code = USE.format(file=file) + (OPPOSITES if opposites else "")
    in_use = 0 if opposites or file == "None" else 3
    run(f"""
i = create({own_gil}); run(i, "import signal, faultproof.faulthandler"); interpreters.destroy(i)
before = descriptors()
for n in range(30):
    i = create({own_gil}); run(i, {code!r}); interpreters.destroy(i)
assert descriptors() == before + {in_use}, (before, descriptors())
fh.disable(); fh.cancel_dump_traceback_later(); fh.unregister(10)
assert descriptors() == before, (before, descriptors())
""")


@pytest.mark.skipif(sys.version_info < (3, 14), reason="InterpreterPoolExecutor came with 3.14")
def test_a_pool_of_interpreters(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(
        PRELUDE
        + f"""
from concurrent.futures import InterpreterPoolExecutor
def work(n):
    scope = {{}}
    exec({USE.format(file="open('/dev/null', 'w')") + OPPOSITES!r}, scope)
    return n
def rounds(n):
    for i in range(n):
        with InterpreterPoolExecutor(4) as pool: assert list(pool.map(work, range(12))) == list(range(12))
if __name__ == "__main__":
    rounds(1); before = descriptors(); rounds(3)
    fh.disable(); fh.cancel_dump_traceback_later(); fh.unregister(10)
    assert descriptors() <= before, (before, descriptors())
"""
    )
    result = child(f"import runpy; runpy.run_path({str(program)!r}, run_name='__main__')")
    assert result.returncode == 0, result.stderr


def test_another_interpreter_takes_over():
    """What replaces a file closes its duplicate, whoever asks; the file of the main interpreter is its own."""
    run(f"""
before = descriptors()
i = create(False); run(i, {USE.format(file="open('/dev/null', 'w')")!r})
used = descriptors()
file = tempfile.TemporaryFile()
fh.enable(file); fh.dump_traceback_later(1000, file=file); fh.register(10, file)
assert descriptors() == used - 3 + 1, (used, descriptors())
interpreters.destroy(i)
assert fh.is_enabled() and fh.unregister(10) and fh.disable()
fh.cancel_dump_traceback_later()
""")


def test_a_report_goes_nowhere_else():
    """A duplicate is not closed under a dump: its number would be somebody else's."""
    run("""
import signal, threading
stop = False
def storm():
    while not stop: signal.pthread_kill(threading.get_ident(), signal.SIGUSR1)
signal.signal(signal.SIGUSR1, lambda *a: None)
threads = [threading.Thread(target=storm) for n in range(2)]
for t in threads: t.start()
i = create(False)
for n in range(20):
    run(i, "from faultproof import faulthandler as fh; f = open('/dev/null', 'w'); fh.register(10, f); fh.unregister(10)")
    others = [tempfile.TemporaryFile() for k in range(3)]
    signal.raise_signal(signal.SIGUSR1)
    assert [os.fstat(file.fileno()).st_size for file in others] == [0, 0, 0]
stop = True
for t in threads: t.join()
""")
