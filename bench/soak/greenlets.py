"""How many stacks of a thread whose greenlets switch all the time are impossible, marked, or empty.

Usage: python bench/soak/greenlets.py [SECONDS a way] [hub | ring ...]

The programs and the judge are those of tests/python/greenlets.py; needs the package greenlet.
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "tests" / "python"))
import greenlets

greenlets.main()
