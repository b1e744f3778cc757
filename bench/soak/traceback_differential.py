"""Compares faultproof.traceback with the interpreter's module over generated trees of exceptions.

Usage: python bench/soak/traceback_differential.py [examples [seed]]
The exit status says whether there was a difference.
"""

from __future__ import annotations

import os
import sys

# With a hook of its own in place, the exceptiongroup package (which hypothesis imports before 3.11) doesn't replace
# TracebackException; else only the interpreter's code would be compared with itself.
sys.excepthook = lambda *args: sys.__excepthook__(*args)
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "tests", "python"))

import faultproof.traceback as ours  # noqa: E402
from hypothesis import HealthCheck, Phase, given, seed, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from traceback_programs import PREAMBLE, STATEMENTS, differences, exceptions, indent, limits, run_source  # noqa: E402


def statements() -> int:
    """Each statement by itself, under blanks and under a tab."""
    failures = 0
    for statement in STATEMENTS:
        for prefix in ("    ", "\t"):
            body = indent(statement.format(0), prefix)
            error = run_source(f"{PREAMBLE}def run():\n{body}\n{prefix}return f(0)\n")
            for difference in differences(error, None, True):
                failures += 1
                print(ascii((statement, difference)))
    return failures


def main() -> int:
    examples = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    # without a seed each run tries other examples
    fixed = seed(int(sys.argv[2])) if len(sys.argv) > 2 else lambda test: test
    assert ours._features()["pristine"], "something has replaced parts of the standard module"
    count = 0

    @fixed
    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate, Phase.shrink],
    )
    @given(exceptions, limits, st.booleans())
    def compare(error, limit, chain):
        nonlocal count
        count += 1
        found = differences(error, limit, chain)
        assert not found, ascii(found[0])

    failures = statements()
    compare()
    print(f"{sys.version.split()[0]}: {len(STATEMENTS) * 2} statements, {count} trees, {failures} differences")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
