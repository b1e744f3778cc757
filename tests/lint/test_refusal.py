"""Where faultproof can't work its build stops with a message that names what is supported."""

from __future__ import annotations

import importlib.util
import os
import pathlib
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
SUPPORTED = "faultproof supports CPython 3.9 and later on Linux x86-64 with glibc; "

pytestmark = [
    pytest.mark.consumer,
    pytest.mark.skipif(importlib.util.find_spec("mesonbuild") is None, reason="meson isn't installed here"),
    pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler here"),
]


def setup(folder: pathlib.Path, *options: str, **env: str) -> str:
    """What `meson setup`, which has to fail, says."""
    command = [sys.executable, "-m", "mesonbuild.mesonmain", "setup", str(folder / "build"), str(ROOT), *options]
    done = subprocess.run(command, env={**os.environ, **env}, capture_output=True, text=True)
    assert done.returncode != 0, done.stdout
    return done.stdout + done.stderr


def machine_file(folder: pathlib.Path, **sections: dict[str, str]) -> str:
    path = folder / "machine.ini"
    path.write_text(
        "".join(
            f"[{name}]\n" + "".join(f"{key} = '{value}'\n" for key, value in section.items())
            for name, section in sections.items()
        )
    )
    return str(path)


def python_that(folder: pathlib.Path, first: str) -> str:
    """This interpreter, which runs some code first."""
    (folder / "sitecustomize.py").write_text(first)
    launcher = folder / "python3"
    launcher.write_text(f'#!/bin/sh\nPYTHONPATH={folder} exec {sys.executable} "$@"\n')
    launcher.chmod(0o755)
    return str(launcher)


@pytest.mark.parametrize(
    ("system", "cpu_family"), [("darwin", "x86_64"), ("windows", "x86_64"), ("linux", "aarch64"), ("linux", "x86")]
)
def test_other_systems_and_processors(tmp_path, system, cpu_family):
    host = {"system": system, "cpu_family": cpu_family, "cpu": cpu_family, "endian": "little"}
    file = machine_file(tmp_path, binaries={"c": "cc", "ar": "ar"}, host_machine=host)
    assert f"{SUPPORTED}this is {system} on {cpu_family}" in setup(tmp_path, "--cross-file", file)


def test_another_implementation(tmp_path):
    python = shutil.which("pypy3")
    if python is None:  # an interpreter that says it is one
        python = python_that(tmp_path, "import sys\nsys.implementation.name = 'pypy'\n")
    file = machine_file(tmp_path, binaries={"python": python})
    assert f"{SUPPORTED}this is pypy 3." in setup(tmp_path, "--native-file", file)


def test_another_c_library(tmp_path):
    compiler = shutil.which("musl-gcc")
    flags = ""
    if compiler is None:  # a features.h that isn't glibc's
        (tmp_path / "features.h").write_text("")
        compiler, flags = "cc", f"-I{tmp_path}"
    assert f"{SUPPORTED}this C library is not glibc" in setup(tmp_path, CC=compiler, CFLAGS=flags)


def test_an_interpreter_without_headers(tmp_path):
    first = "import sysconfig\npaths = sysconfig.get_paths\nelsewhere = dict.fromkeys(('include', 'platinclude'), '/none')\n"
    python = python_that(tmp_path, first + "sysconfig.get_paths = lambda *a, **k: {**paths(*a, **k), **elsewhere}\n")
    file = machine_file(tmp_path, binaries={"python": python})
    assert "Python.h was not found (-I/none -I/none): install the headers of this Python" in setup(
        tmp_path, "--native-file", file
    )
