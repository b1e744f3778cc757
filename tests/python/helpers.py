"""What the tests share: children that may crash, and text of both modules side by side."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap


def child(code: str, *options: str, **kwargs) -> subprocess.CompletedProcess[str]:
    """Runs code in a child process; it may crash.  No core file is written."""
    prelude = "import resource; resource.setrlimit(resource.RLIMIT_CORE, (0, 0))\n"
    kwargs.setdefault("timeout", 120)
    kwargs.setdefault("stdin", subprocess.DEVNULL)
    return subprocess.run(
        [sys.executable, *options, "-c", prelude + textwrap.dedent(code)],
        capture_output=True,
        encoding="ascii",
        errors="backslashreplace",
        **kwargs,
    )


# The prelude of children that compare: both() calls the two modules on one line and fails where the text differs.
SIDE_BY_SIDE = """
import faulthandler as standard, os, sys, tempfile, threading
from faultproof import faulthandler as ours

def text(file):
    file.seek(0)
    return file.read()

def both(**options):
    a, b = tempfile.TemporaryFile(), tempfile.TemporaryFile()
    standard.dump_traceback(a, **options); ours.dump_traceback(b, **options)
    a, b = text(a), text(b)
    if a != b:
        sys.exit("standard:\\n%s\\nours:\\n%s" % (a.decode(), b.decode()))
    both.last = a.decode()
"""


def side_by_side(code: str, *options: str, **kwargs) -> str:
    """Runs code after SIDE_BY_SIDE in a child; returns what it printed."""
    result = child(SIDE_BY_SIDE + textwrap.dedent(code), *options, **kwargs)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def tmp_env(**changes: str) -> dict[str, str]:
    return {**os.environ, **changes}
