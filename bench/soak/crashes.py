"""Crashes by the hundred: stack overflows in every kind of thread, and several threads that crash at once.

Usage: python bench/soak/crashes.py [OVERFLOWS of each kind, default 100] [CRASHES of 4 threads at once, default 1000]
The programs are those of tests/python/test_triggers.py and test_fatal.py.  The exit status says whether all were
reported.
"""

from __future__ import annotations

import pathlib
import re
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "tests" / "python"))
import test_fatal
import test_triggers
from helpers import child


def overflow_is_shown(how: str) -> bool:
    code = test_triggers.PRELUDE + "def overflow():\n    fh._stack_overflow()\n" + test_triggers.OVERFLOWS[how]
    text = child(code).stderr
    return bool(re.search(r'Current thread.*\n  File "<string>", line \d+ in overflow\n', text))


def report_is_complete() -> bool:
    prelude = "import faultproof.faulthandler as fh, sys, os, ctypes, signal, threading\n"
    result = child(prelude + test_fatal.CRASH_TOGETHER.format(n=4))
    blocks = result.stderr.split("\n\n")
    stacks = sum(block.count(" in _bootstrap\n") + block.endswith(" in _bootstrap") for block in blocks)
    return (
        result.returncode == -11
        and result.stderr.count("Fatal Python error") == 1
        and result.stderr.count("Current thread 0x") == 1
        and stacks == 4
    )


def main() -> int:
    overflows = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    crashes = int(sys.argv[2]) if len(sys.argv) > 2 else 1000
    failed = 0
    for how in test_triggers.OVERFLOWS:
        shown = sum(overflow_is_shown(how) for _ in range(overflows))
        failed += overflows - shown
        print(f"{sys.version.split()[0]} overflow in {how}: {shown} of {overflows} shown", flush=True)
    complete = sum(report_is_complete() for _ in range(crashes))
    failed += crashes - complete
    print(f"{sys.version.split()[0]} 4 threads at once: {complete} of {crashes} first reports complete", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
