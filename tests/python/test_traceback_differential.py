"""faultproof.traceback against the running interpreter's own module: generated exceptions, library positions.

Both run in a child process: pytest imports packages that replace parts of the standard module on older interpreters.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

SOAK = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "bench", "soak")


def run(name: str, *args: str) -> str:
    command = [sys.executable, "-X", "utf8", os.path.join(SOAK, name), *args]
    result = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=900)
    assert result.returncode == 0, (result.stdout + result.stderr)[-6000:]
    return result.stdout


def test_trees_of_exceptions():
    pytest.importorskip("hypothesis")
    assert " 0 differences" in run("traceback_differential.py", "2000")


@pytest.mark.skipif(sys.version_info < (3, 11), reason="no columns and no carets before 3.11")
def test_positions_of_the_library():
    counts = run("traceback_positions.py", "97", "3")
    assert "'positions'" in counts and "'differences'" not in counts
