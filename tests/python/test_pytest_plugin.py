"""pytest's faulthandler plugin under install(): reports are ours, faulthandler_timeout works."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

PLUGIN = "import faultproof\nfaultproof.install()\n"
TESTS = """
import ctypes, faulthandler, time

def test_whose():
    assert faulthandler.enable.__self__.__name__ == "faultproof.faulthandler" and faulthandler.is_enabled()

def test_slow():
    time.sleep(1.5)

def test_crash():
    ctypes.string_at(0)
"""


def run_pytest(folder, *options, **kwargs):
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *options],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        **kwargs,
    )


def test_the_plugin(tmp_path):
    (tmp_path / "early.py").write_text(PLUGIN)
    (tmp_path / "test_it.py").write_text(TESTS)
    done = run_pytest(tmp_path, "-p", "early", "-o", "faulthandler_timeout=0.2", "test_it.py")
    assert done.returncode == -signal.SIGSEGV, done.stdout + done.stderr
    assert done.stderr.count("Timeout (0:00:00.200000)!\n") == 1
    assert " in test_slow\n" in done.stderr
    assert done.stderr.count("Fatal Python error: Segmentation fault\n") == 1
    assert " in test_crash\n" in done.stderr


APPLICATION = "import faultproof\nfaultproof.install()\ndef crash():\n    import ctypes\n    ctypes.string_at(0)\n"


@pytest.mark.parametrize("capture", ["fd", "sys", "no", "tee-sys"])
def test_installed_by_an_application_that_a_test_imports(tmp_path, capture):
    """pytest has its handler on a copy of the real stderr, which is a number, and captures what goes to stderr."""
    (tmp_path / "application.py").write_text(APPLICATION)
    (tmp_path / "test_it.py").write_text("def test_it():\n    import application\n    application.crash()\n")
    done = run_pytest(tmp_path, f"--capture={capture}", "test_it.py")
    assert done.returncode == -signal.SIGSEGV, done.stdout + done.stderr
    assert done.stderr.count("Fatal Python error: Segmentation fault\n") == 1
    assert " in crash\n" in done.stderr and "application.py" in done.stderr
