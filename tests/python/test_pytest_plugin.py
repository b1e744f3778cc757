"""pytest's faulthandler plugin under install(): reports are ours, faulthandler_timeout works."""

from __future__ import annotations

import signal
import subprocess
import sys

PLUGIN = "import faultproof\nfaultproof.install()\n"
TESTS = """
import ctypes, faulthandler, time

def test_whose():
    assert faulthandler.__name__ == "faultproof.faulthandler" and faulthandler.is_enabled()

def test_slow():
    time.sleep(1.5)

def test_crash():
    ctypes.string_at(0)
"""


def test_the_plugin(tmp_path):
    (tmp_path / "early.py").write_text(PLUGIN)
    (tmp_path / "test_it.py").write_text(TESTS)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "early", "-o", "faulthandler_timeout=0.2", "-q", "test_it.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == -signal.SIGSEGV, done.stdout + done.stderr
    assert done.stderr.count("Timeout (0:00:00.200000)!\n") == 1
    assert " in test_slow\n" in done.stderr
    assert done.stderr.count("Fatal Python error: Segmentation fault\n") == 1
    assert " in test_crash\n" in done.stderr
