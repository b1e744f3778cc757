"""Puts the folders of shared test helpers on the path."""

import pathlib
import sys

HERE = pathlib.Path(__file__).parent
sys.path[:0] = [str(HERE / "conformance"), str(HERE / "python")]
