"""The example profiler on a hostile program for two seconds; bench/soak runs it for longer."""

from __future__ import annotations

import os
import pathlib
import shutil
import subprocess
import sys
import sysconfig

import faultproof
import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
SOAK = ROOT / "bench" / "soak" / "profiler.py"

pytestmark = pytest.mark.consumer


def test_hostile_program_for_two_seconds():
    if not SOAK.exists():
        pytest.skip("no source tree around the tests")
    if shutil.which("cc") is None or not pathlib.Path(sysconfig.get_paths()["include"], "Python.h").exists():
        pytest.skip("needs a C compiler and the interpreter's headers")
    env = {**os.environ, "PYTHONPATH": str(pathlib.Path(faultproof.__file__).parent.parent)}
    done = subprocess.run([sys.executable, SOAK, "2", "1000"], capture_output=True, text=True, env=env, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "impossible: 0" in done.stdout


def test_the_profiler_is_short():
    source = ROOT / "examples" / "profiler" / "profiler.c"
    if not source.exists():
        pytest.skip("no source tree around the tests")
    assert len(source.read_text().splitlines()) < 300
