"""The examples of docs/traceback.md, run in a child process."""

from __future__ import annotations

import os
import subprocess
import sys

DOCUMENT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "docs", "traceback.md")

# The functions of the examples have no source on disk.  doctest serves their lines by replacing linecache.getlines: the
# interpreter's own code is asked then.  The second run has the lines in linecache's cache instead.
PROGRAM = """
import doctest, linecache, sys
class Runner(doctest.DocTestRunner):
    def run(self, test, *args, **kwargs):
        for number, example in enumerate(test.examples):
            name = "<doctest %s[%d]>" % (test.name, number)
            linecache.cache[name] = (1, None, example.source.splitlines(True), name)
        return super().run(test, *args, **kwargs)
    if sys.argv[2] == "fast":
        _DocTestRunner__patched_linecache_getlines = staticmethod(linecache.getlines)
with open(sys.argv[1], encoding="utf-8") as file:
    test = doctest.DocTestParser().get_doctest(file.read(), {}, "traceback.md", sys.argv[1], 0)
runner = Runner()
runner.run(test)
print(runner.summarize())
sys.exit(1 if runner.failures or runner.tries < 20 else 0)
"""


def run(which: str) -> None:
    command = [sys.executable, "-X", "utf8", "-c", PROGRAM, DOCUMENT, which]
    result = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=300)
    assert result.returncode == 0, result.stdout + result.stderr


def test_examples():
    run("plain")


def test_examples_on_the_fast_path():
    run("fast")
