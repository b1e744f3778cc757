"""FAULTPROOF=1: on from the start of the interpreter, through a line in site-packages."""

from __future__ import annotations

import importlib.util
import pathlib
import subprocess
import sys

import faultproof
import pytest

SHOW = "import sys, faulthandler; print(faulthandler.__name__, faulthandler.is_enabled(), 'faultproof' in sys.modules)"


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """An environment whose site-packages holds the start-up line."""
    folder = tmp_path_factory.mktemp("env")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    package = pathlib.Path(faultproof.__file__).parent
    line = package.parent / "faultproof.pth"
    if not line.exists():
        line = pathlib.Path(__file__).parents[2] / "python" / "faultproof.pth"
    site = next((folder / "lib").glob("python*/site-packages"))
    (site / "faultproof").symlink_to(package)
    (site / "faultproof.pth").write_text(line.read_text())
    return str(folder / "bin" / "python")


def run(python: str, *arguments: str, **environment: str) -> str:
    done = subprocess.run(
        [python, *arguments], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60
    )
    return f"{done.returncode} {done.stdout}".strip()


def test_on_and_off(python):
    assert run(python, "-c", SHOW) == "0 faulthandler False False"
    assert run(python, "-c", SHOW, FAULTPROOF="0") == "0 faulthandler False False"
    assert run(python, "-c", SHOW, FAULTPROOF="") == "0 faulthandler False False"
    assert run(python, "-c", SHOW, FAULTPROOF="1") == "0 faultproof.faulthandler True True"
    assert run(python, "-E", "-c", SHOW, FAULTPROOF="1").endswith("faulthandler False False")
    assert run(python, "-I", "-c", SHOW, FAULTPROOF="1").endswith("faulthandler False False")


def test_the_standard_modules_own_switches_are_taken_over(python):
    taken = "0 faultproof.faulthandler True True"
    assert run(python, "-X", "faulthandler", "-c", SHOW, FAULTPROOF="1") == taken
    assert run(python, "-X", "dev", "-c", SHOW, FAULTPROOF="1") == taken
    assert run(python, "-c", SHOW, FAULTPROOF="1", PYTHONFAULTHANDLER="1") == taken
    crash = "import ctypes\ndef f(): ctypes.string_at(0)\nf()"
    text = run(python, "-X", "faulthandler", "-c", crash, FAULTPROOF="1")
    assert text.startswith("-11 Fatal Python error: Segmentation fault") and text.count("Fatal") == 1


def test_children_have_it_too_and_nothing_twice(python):
    code = (
        "import subprocess, sys, site, faulthandler; faulthandler.disable(); site.main(); print(faulthandler.is_enabled());"
        "print(subprocess.check_output([sys.executable, '-c', 'import faulthandler; print(faulthandler.is_enabled())']))"
    )
    assert run(python, "-c", code, FAULTPROOF="1") == "0 False\nb'True\\n'"


@pytest.mark.skipif(
    importlib.util.find_spec("_interpreters") is None and importlib.util.find_spec("_xxsubinterpreters") is None,
    reason="no module to make interpreters with",
)
def test_subinterpreters(python):
    code = """
try: import _interpreters as interpreters
except ImportError: import _xxsubinterpreters as interpreters
i = interpreters.create()
interpreters.run_string(i, "import sys; assert sys.modules.get('faulthandler') is not sys.modules['faultproof.faulthandler']")
import faulthandler; print(faulthandler.is_enabled())
interpreters.destroy(i)
"""
    assert run(python, "-c", code, FAULTPROOF="1") == "0 True"
