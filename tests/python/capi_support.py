"""Builds extensions of tests/c that use the C API, for the interpreter that runs the tests."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import pathlib
import shutil
import subprocess
import sysconfig
import tempfile
import threading

import pytest

TESTS = pathlib.Path(__file__).resolve().parent.parent
ROOT = TESTS.parent
CC = shutil.which("cc") or shutil.which("gcc")


def python_flags() -> list[str]:
    paths = sysconfig.get_paths()
    return [f"-I{p}" for p in dict.fromkeys((paths["include"], paths["platinclude"]))]


def build(name: str) -> pathlib.Path:
    """The extension module of tests/c/NAME.c; skips where it can't be built."""
    import faultproof

    if CC is None:
        pytest.skip("no C compiler", allow_module_level=True)
    if not pathlib.Path(sysconfig.get_paths()["include"], "Python.h").exists():
        pytest.skip("the interpreter's headers aren't installed", allow_module_level=True)
    target = pathlib.Path(tempfile.mkdtemp(), f"{name}.so")
    command = [CC, "-O1", "-g", "-shared", "-fPIC", "-Wall", *python_flags(), f"-I{faultproof.get_include()}"]
    subprocess.run([*command, str(TESTS / "c" / f"{name}.c"), "-o", str(target)], check=True)
    return target


def load_probe():
    """The module capi_probe."""
    target = build("capi_probe")
    spec = importlib.util.spec_from_file_location("capi_probe", target)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.path = str(target)
    return module


_probe = None


def probe():
    """Built and imported once a test run."""
    global _probe
    if _probe is None:
        _probe = load_probe()
    return _probe


def interpreters():
    """The module of subinterpreters, which each version has under another name."""
    for name in ("_interpreters", "_xxsubinterpreters"):
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    pytest.skip("this build has no subinterpreters module")


@contextlib.contextmanager
def interpreter_in_a_thread(code: str):
    """A subinterpreter in which another thread runs code: its number, once the code has written to READY.

    In the end GO can be read, for code that waits, and the file STOP exists, for code that runs.
    """
    module = interpreters()
    ident = module.create()
    ready_r, ready_w = os.pipe()
    go_r, go_w = os.pipe()
    stop = os.path.join(tempfile.mkdtemp(), "stop")
    before = f"import os\nREADY, GO, STOP = {ready_w}, {go_r}, {stop!r}\n"
    thread = threading.Thread(target=module.run_string, args=(ident, before + code))
    thread.start()
    try:
        os.read(ready_r, 1)
        yield int(ident), thread
    finally:
        os.write(go_w, b"x")
        open(stop, "x").close()
        thread.join()
        shutil.rmtree(os.path.dirname(stop))
        module.destroy(ident)
        for fd in (ready_r, ready_w, go_r, go_w):
            os.close(fd)
