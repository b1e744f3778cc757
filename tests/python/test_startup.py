"""FAULTPROOF=1: on from the start of the interpreter, through a line in site-packages."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess

import pytest

SHOW = (
    "import sys, faulthandler; print(type(faulthandler.enable.__self__).__name__, faulthandler.enable.__self__.__name__, "
    "faulthandler.is_enabled(), 'faultproof' in sys.modules)"
)
ON = "0 module faultproof.faulthandler True True"
OFF = "0 module faulthandler False False"
CRASH = "import ctypes\ndef f(): ctypes.string_at(0)\nf()"
REPORT = "Fatal Python error: Segmentation fault\n"


def start(python: str, *arguments: str, **options) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": os.environ.get("PATH", ""), **options.pop("environment", {})}
    return subprocess.run([python, *arguments], env=environment, capture_output=True, text=True, timeout=60, **options)


def run(python: str, *arguments: str, **environment: str) -> str:
    done = start(python, *arguments, environment=environment)
    return f"{done.returncode} {done.stdout}{done.stderr}".strip()


@pytest.mark.parametrize("value", ["1", "on", "ON", "yes", "True"])
def test_on(started_python, value):
    assert run(started_python, "-c", SHOW, FAULTPROOF=value) == ON


@pytest.mark.parametrize("value", ["", "0", "off", "Off", "no", "false"])
def test_off(started_python, value):
    assert run(started_python, "-c", SHOW, FAULTPROOF=value) == OFF.replace(
        "False False", f"False {value not in ('', '0')}"
    )


def test_not_asked_for(started_python):
    assert run(started_python, "-c", SHOW) == OFF
    assert run(started_python, "-c", SHOW, FAULTPROOF_FILE="/nowhere/x", FAULTPROOF_TIMEOUT="x") == OFF


@pytest.mark.parametrize("option", ["-E", "-I"])
def test_options_hold_where_variables_do_not(started_python, option, tmp_path):
    assert run(started_python, option, "-c", SHOW, FAULTPROOF="1") == OFF
    assert run(started_python, option, "-X", "faultproof", "-c", SHOW) == ON
    assert run(started_python, option, "-X", "faultproof=on", "-c", SHOW) == ON
    file = tmp_path / "report"
    run(started_python, option, "-X", "faultproof", "-X", f"faultproof_file={file}", "-c", CRASH)
    assert file.read_text().startswith(REPORT)


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        (
            {"FAULTPROOF": "maybe"},
            "FAULTPROOF=maybe isn't known, and the program runs without it: 1 turns it on, 0 off",
        ),
        ({"FAULTPROOF": "/tmp/x.log"}, "FAULTPROOF=1 FAULTPROOF_FILE=/tmp/x.log writes reports to that file"),
        ({"FAULTPROOF": "reports.txt"}, "FAULTPROOF=1 FAULTPROOF_FILE=reports.txt"),
        ({"FAULTPROOF": "30"}, "FAULTPROOF=1 FAULTPROOF_TIMEOUT=30 writes all stacks"),
        ({"FAULTPROOF": "2.5"}, "FAULTPROOF=1 FAULTPROOF_TIMEOUT=2.5"),
    ],
    ids=str,
)
def test_refused_values_cost_a_line(started_python, variables, said):
    done = start(started_python, "-W", "error", "-c", SHOW + "; sys.exit(7)", environment=variables)
    assert done.returncode == 7 and done.stdout.split()[-2] == "False"
    assert said in done.stderr and done.stderr.startswith("faultproof: ") and done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("FILE", "/nowhere/file"),
        ("FILE", "/"),
        ("TIMEOUT", "soon"),
        ("TIMEOUT", "-1"),
        ("TIMEOUT", "nan"),
        ("TIMEOUT", "1e99"),
        ("THREADS", "some"),
    ],
)
def test_other_wrong_values_are_told_and_the_rest_holds(started_python, name, value):
    variables = {"FAULTPROOF": "1", f"FAULTPROOF_{name}": value}
    done = start(started_python, "-W", "error", "-c", SHOW, environment=variables)
    assert f"{done.returncode} {done.stdout}".strip() == ON
    assert f"FAULTPROOF_{name}={value}" in done.stderr and done.stderr.count("\n") == 1


def test_a_pipe_without_a_reader_is_not_waited_for(started_python, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    done = start(started_python, "-c", SHOW, environment={"FAULTPROOF": "1", "FAULTPROOF_FILE": str(tmp_path / "pipe")})
    assert done.stdout.strip() == ON[2:] and "can't write to" in done.stderr


def test_file_timeout_and_threads(started_python, tmp_path):
    file = tmp_path / "report"
    file.write_text("kept\n")
    variables = {"FAULTPROOF": "1", "FAULTPROOF_FILE": str(file), "FAULTPROOF_THREADS": "current"}
    done = start(started_python, "-c", CRASH, environment=variables)
    assert done.returncode == -signal.SIGSEGV and done.stderr == ""
    assert file.read_text().startswith("kept\n" + REPORT) and "Stack (most recent call first):" in file.read_text()
    file.unlink()
    variables = {"FAULTPROOF": "1", "FAULTPROOF_TIMEOUT": "0.05", "FAULTPROOF_FILE": str(file)}
    program = f"import os\nwhile not os.path.getsize({str(file)!r}): os.sched_yield()"
    assert start(started_python, "-c", program, environment=variables).returncode == 0
    assert file.read_text().startswith("Timeout (0:00:00.050000)!\n")


def test_the_standard_modules_own_switches_are_taken_over(started_python):
    assert run(started_python, "-X", "faulthandler", "-c", SHOW, FAULTPROOF="1") == ON
    assert run(started_python, "-X", "dev", "-c", SHOW, FAULTPROOF="1") == ON
    assert run(started_python, "-c", SHOW, FAULTPROOF="1", PYTHONFAULTHANDLER="1") == ON
    text = run(started_python, "-X", "faulthandler", "-c", CRASH, FAULTPROOF="1")
    assert text.startswith("-11 Fatal Python error: Segmentation fault") and text.count("Fatal") == 1


# What a program may do to its stderr before it crashes, and whether the report is seen on the stderr of the start.
MOVED = {
    "nothing": ("", True),
    "another file as 2": ("os.dup2(os.open('data', os.O_RDWR | os.O_CREAT), 2)", True),
    "sys.stderr replaced": ("import io; sys.stderr = io.StringIO()", True),
    "2 is closed": ("os.close(2)", True),
    "a daemon with files of its own": (
        "os.closerange(0, 4096); [os.open('data', os.O_RDWR | os.O_CREAT) for n in range(2)];"
        "os.open('log', os.O_RDWR | os.O_CREAT); [os.open('data', os.O_RDWR | os.O_CREAT) for n in range(400)]",
        False,
    ),
    "all closed": ("os.closerange(0, 4096)", False),
}


@pytest.mark.parametrize("name", MOVED)
def test_the_stderr_of_the_start_is_kept(started_python, tmp_path, name):
    code, seen = MOVED[name]
    program = f"import os, sys, ctypes\n{code}\nctypes.string_at(0)"
    done = start(started_python, "-c", program, environment={"FAULTPROOF": "1"}, cwd=tmp_path)
    assert done.returncode == -signal.SIGSEGV
    assert done.stderr.startswith(REPORT) if seen else done.stderr == ""
    data, log = (tmp_path / "data"), (tmp_path / "log")
    assert not data.exists() or data.read_text() == ""
    assert log.exists() is ("log" in code) and (not log.exists() or log.read_text().startswith(REPORT))


def test_one_report_after_a_fatal_error(started_python):
    """Py_FatalError() writes to descriptor 2, which is the same file as the one that is kept."""
    program = "import faulthandler; faulthandler._fatal_error_c_thread()"
    done = start(started_python, "-c", program, environment={"FAULTPROOF": "1"})
    assert done.returncode == -signal.SIGABRT
    assert done.stderr.count("Fatal Python error") == 1, done.stderr


def test_without_a_stderr_nothing_is_written_anywhere(started_python, tmp_path):
    """What is opened first would get the number 2."""
    program = "import ctypes, os; [os.open('data', os.O_RDWR | os.O_CREAT) for n in range(300)]; ctypes.string_at(0)"
    command = 'exec "$0" -c "$1" 2>&-'
    done = subprocess.run(
        ["sh", "-c", command, started_python, program], env={"FAULTPROOF": "1"}, cwd=tmp_path, timeout=60
    )
    assert done.returncode == -signal.SIGSEGV
    assert (tmp_path / "data").read_text() == ""


def test_children_have_it_too_and_nothing_twice(started_python):
    code = (
        "import subprocess, sys, site, faulthandler; faulthandler.disable(); site.main(); print(faulthandler.is_enabled());"
        "print(subprocess.check_output([sys.executable, '-c', 'import faulthandler; print(faulthandler.is_enabled())']))"
    )
    assert run(started_python, "-c", code, FAULTPROOF="1") == "0 False\nb'True\\n'"


def test_the_start_imports_nothing_that_is_not_needed(started_python):
    modules = "import sys; print(*sorted(sys.modules))"
    plain = set(start(started_python, "-c", modules).stdout.split())
    ours = set(start(started_python, "-c", modules, environment={"FAULTPROOF": "1"}).stdout.split())
    assert {name for name in ours - plain if name.partition(".")[0] != "faultproof"} <= {"faulthandler"}
    assert {name for name in ours if name.startswith("faultproof.")} == {
        "faultproof._deferred",
        "faultproof._install",
        "faultproof._startup",
        "faultproof.faulthandler",
    }
    assert plain <= ours


@pytest.mark.skipif(
    importlib.util.find_spec("_interpreters") is None and importlib.util.find_spec("_xxsubinterpreters") is None,
    reason="no module to make interpreters with",
)
def test_subinterpreters(started_python):
    code = """
try: import _interpreters as interpreters
except ImportError: import _xxsubinterpreters as interpreters
i = interpreters.create()
failed = interpreters.run_string(i, "import traceback; assert 'Error' in ''.join(traceback.format_exception_only(ValueError, ValueError()))")
assert failed is None, failed
import faulthandler; print(faulthandler.is_enabled())
interpreters.destroy(i)
"""
    assert run(started_python, "-c", code, FAULTPROOF="1") == "0 True"
