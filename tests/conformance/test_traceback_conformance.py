"""CPython's own test_traceback and the tests of its users, unmodified, from the installed interpreter.

With faultproof no test fails that passes without.

There is no list of exclusions: what may fail is what fails with the standard module on the same interpreter.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys

import pytest

RUNNER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "run_swapped.py")


def outcome(which: str, name: str) -> dict:
    command = [sys.executable, "-W", "ignore", RUNNER, which, name]
    result = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=900)
    assert result.returncode == 0, result.stderr[-4000:]
    return json.loads(result.stdout.splitlines()[-1])


# Modules whose tests format exceptions.  The slow ones take minutes: with FAULTPROOF_SLOW=1.
SLOW = ["test_threading", "test_asyncio"]
SUITES = ["test_traceback", "test_code", "test_contextlib", "test_doctest", "test_exceptions", "test_exception_group",
          "test_logging", "test_unittest", *SLOW]  # fmt: skip


@pytest.mark.parametrize("name", SUITES)
def test_the_interpreters_own_tests(name):
    if name in SLOW and os.environ.get("FAULTPROOF_SLOW") != "1":
        pytest.skip("takes minutes; FAULTPROOF_SLOW=1 runs it")
    if importlib.util.find_spec("test") is None or importlib.util.find_spec("test.test_traceback") is None:
        pytest.skip("this interpreter is installed without the test package")
    if importlib.util.find_spec(f"test.{name}") is None:
        pytest.skip("this version has no such tests")
    standard, ours = outcome("standard", name), outcome("faultproof", name)
    assert ours["ours"] and not standard["ours"], "the module under test is not the one that was meant"
    assert len(standard["passed"]) > (60 if name == "test_traceback" else 10)
    assert set(standard["passed"]) <= set(ours["passed"]), sorted(set(standard["passed"]) - set(ours["passed"]))
    assert set(ours["failed"]) <= set(standard["failed"])
