"""faultproof.traceback against the running interpreter's own module: generated exceptions, library positions.

Both run in a child process: pytest imports packages that replace parts of the standard module on older interpreters.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys

import pytest

SOAK = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "bench", "soak")


def start(name: str, *args: str) -> subprocess.Popen:
    command = [sys.executable, "-X", "utf8", os.path.join(SOAK, name), *args]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def finish(process: subprocess.Popen) -> str:
    output = process.communicate(timeout=900)[0].decode("utf-8", "replace")
    assert process.returncode == 0, output[-6000:]
    return output


def test_trees_of_exceptions():
    """2,000 examples, half of them in each of two processes; always the same ones, other ones in bench/soak."""
    pytest.importorskip("hypothesis")
    for process in [start("traceback_differential.py", "1000", seed) for seed in ("1", "2")]:
        assert " 0 differences" in finish(process)


def test_syntax_errors():
    assert " 0 differences" in finish(start("traceback_syntax.py", "5000", "1"))


def test_damaged_tracebacks():
    assert " 0 differences" in finish(start("traceback_damaged.py", "1500", "1"))


def test_odd_exceptions():
    assert " 0 differences" in finish(start("traceback_exceptions.py", "1500", "1"))


def test_positions_of_the_library():
    counts = ast.literal_eval(finish(start("traceback_positions.py", "97", "3")).split(" ", 1)[1])
    assert counts["positions"] > 1000 and counts["differences"] == 0
