"""Runs one of CPython's own test modules, with faultproof installed or not, and prints which tests passed and failed.

Usage: python run_swapped.py standard|faultproof test_traceback.  The last line is JSON: {"ours": bool, "passed": [...],
"failed": [...], "skipped": [...]}.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import tempfile
import unittest


class Result(unittest.TestResult):
    """Remembers each test's name by its outcome; a failure in a subtest is its test's."""

    def __init__(self):
        super().__init__()
        self.names: dict[str, set[str]] = {"passed": set(), "failed": set(), "skipped": set()}

    def addSuccess(self, test):
        self.names["passed"].add(test.id())

    def addFailure(self, test, err):
        self.names["failed"].add(test.id())

    addError = addFailure

    def addSkip(self, test, reason):
        self.names["skipped"].add(test.id())

    def addExpectedFailure(self, test, err):
        self.names["passed"].add(test.id())

    def addUnexpectedSuccess(self, test):
        self.names["failed"].add(test.id())

    def addSubTest(self, test, subtest, err):
        if err is not None:
            self.names["failed"].add(test.id())


def main() -> None:
    swapped, name = sys.argv[1] == "faultproof", sys.argv[2]
    if swapped:
        import faultproof

        faultproof.install()
    import traceback

    ours = hasattr(traceback, "format_exc_bytes")
    module = importlib.import_module(f"test.{name}")
    if name == "test_traceback":
        ours = ours and hasattr(module.traceback, "format_exc_bytes")
    result = Result()
    # some tests write files into the current folder
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        unittest.defaultTestLoader.loadTestsFromModule(module).run(result)
        os.chdir("/")
    names = {kind: sorted(tests) for kind, tests in result.names.items()}
    names["passed"] = sorted(set(names["passed"]) - set(names["failed"]))
    print("\n" + json.dumps({"ours": ours, **names}))


if __name__ == "__main__":
    main()
