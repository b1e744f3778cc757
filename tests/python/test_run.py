"""faultproof run: a program sees what python itself would give it, and its crash is reported."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

SHOW = """import sys, os
print(sys.argv, repr(sys.path[0]), __name__, globals().get("__file__"), sys.modules["__main__"].__dict__ is globals())
print(globals().get("__spec__") is None, __builtins__.__name__ if hasattr(__builtins__, "__name__") else "dict")
"""


def both(tmp_path, *arguments, options=(), **kwargs):
    """The same arguments given to python and to faultproof run: status, stdout, stderr of each."""
    results = []
    for prefix in ([sys.executable], [sys.executable, "-m", "faultproof", "run", *options]):
        done = subprocess.run(
            [*prefix, *arguments],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
            **kwargs,
        )
        results.append((done.returncode, done.stdout, done.stderr))
    return results


@pytest.mark.parametrize("arguments", [["show.py"], ["sub/show.py", "-c", "x", "--file", "-m"], ["./show.py", ""]])
def test_a_script(tmp_path, arguments):
    (tmp_path / "sub").mkdir()
    for folder in (tmp_path, tmp_path / "sub"):
        (folder / "show.py").write_text(SHOW)
    python, ours = both(tmp_path, *arguments)
    assert python == ours
    assert python[0] == 0


def test_a_module_and_code(tmp_path):
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__init__.py").write_text("")
    (tmp_path / "package" / "__main__.py").write_text(
        "import sys\nprint(sys.argv, __name__, __package__, sys.path[0])\n"
    )
    (tmp_path / "mod.py").write_text("import sys\nprint(sys.argv, __name__, __package__, sys.path[0])\n")
    for arguments in (["-m", "package", "1"], ["-m", "mod", "-x"], ["-mmod"], ["-c", SHOW, "a"], ["-cprint(1)"]):
        python, ours = both(tmp_path, *arguments)
        assert python == ours, arguments


@pytest.mark.parametrize("code", ["raise SystemExit(3)", "raise SystemExit('text')", "import sys; sys.exit()", "1/0",
                                  "import os, signal; os.kill(os.getpid(), signal.SIGTERM)", "raise KeyboardInterrupt"])  # fmt: skip
def test_status_and_traceback(tmp_path, code):
    (tmp_path / "program.py").write_text("def f():\n    " + code + "\nf()\n")
    python, ours = both(tmp_path, "program.py")
    assert python == ours


def test_stdin_as_script(tmp_path):
    python, ours = both(tmp_path, "-", "x", input="import sys; print(sys.argv, repr(sys.path[0]))")
    assert python == ours


def test_a_crash_is_reported(tmp_path):
    (tmp_path / "crash.py").write_text("import ctypes\ndef f():\n    ctypes.string_at(0)\nf()\n")
    python, ours = both(tmp_path, "crash.py")
    assert python[0] == ours[0] == -signal.SIGSEGV
    assert python[2] == ""
    lines = ours[2].splitlines()
    assert lines[0] == "Fatal Python error: Segmentation fault"
    assert f'  File "{tmp_path}/crash.py", line 3 in f' in lines
    assert f'  File "{tmp_path}/crash.py", line 4 in <module>' in lines


def test_options(tmp_path):
    code = "import ctypes; ctypes.string_at(0)"
    _, ours = both(tmp_path, "-c", code, options=["--file", "report.txt", "--current-thread"])
    assert ours[2] == ""
    report = (tmp_path / "report.txt").read_text()
    assert "Stack (most recent call first):" in report
    _, ours = both(tmp_path, "-c", "import threading; threading.Event().wait(1)", options=["--timeout", "0.05"])
    assert ours[2].startswith("Timeout (0:00:00.050000)!\n")


def test_errors_say_what_to_do(tmp_path):
    for options, text in (
        (["missing.py"], "can't open file"),
        ([], "nothing to run"),
        (["--timeout", "-1", "x.py"], "greater than 0"),
    ):
        done = subprocess.run(
            [sys.executable, "-m", "faultproof", "run", *options], cwd=tmp_path, stderr=subprocess.PIPE, text=True
        )
        assert done.returncode == 2
        assert text in done.stderr
