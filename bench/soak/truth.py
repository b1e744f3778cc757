"""How many stacks of running threads are impossible, or marked.

Usage: python bench/soak/truth.py [SECONDS a program] [SAMPLER] [PROGRAM ...]

SAMPLER: who reads, how, and from where ("dump guard thread", "info vm handler", "compact pipe thread", ...).
The programs, the samplers and the judge are those of tests/python/truth.py.
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "tests" / "python"))
import truth

truth.main()
