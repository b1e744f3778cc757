"""The matrix: each interpreter gets one wheel, one environment and the whole test suite.

nox                       the interpreters python3.9 to python3.15 found on PATH
FAULTPROOF_PYTHONS="PATH PATH ..." nox     these interpreters
nox -s lint stubs sanitize  style; the stubs by mypy; the C tests under AddressSanitizer and valgrind
nox -s fuzz [-- SECONDS]  libFuzzer over images of real processes; needs clang
"""

from __future__ import annotations

import os
import shutil
import subprocess

import nox

nox.options.default_venv_backend = "uv"
nox.options.sessions = ["lint", "stubs", "sanitize", "tests"]

NAMES = [f"python3.{minor}" for minor in range(9, 16)] + ["python3.13t", "python3.14t", "python3.15t"]
PYTHONS = os.environ.get("FAULTPROOF_PYTHONS", "").split() or [p for p in map(shutil.which, NAMES) if p]


# The versions for which the projects under tests/consumer are built with every build system.
CONSUMERS = {(3, 9), (3, 15)}


def facts(python: str) -> tuple[tuple[int, int], bool]:
    """Version and whether the build is free-threaded."""
    code = "import sys, sysconfig; print(*sys.version_info[:2], int(bool(sysconfig.get_config_var('Py_GIL_DISABLED'))))"
    major, minor, free = map(int, subprocess.check_output([python, "-c", code], text=True).split())
    return (major, minor), bool(free)


@nox.session
def lint(session: nox.Session) -> None:
    session.install("ruff==0.17.*", "clang-format==23.*")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    sources = subprocess.check_output(["git", "ls-files", "*.c", "*.h"], text=True).split()
    session.run("clang-format", "--dry-run", "--Werror", *sources)


@nox.session
def stubs(session: nox.Session) -> None:
    """What mypy and its stubtest say of the stubs."""
    session.install("pytest>=8", "mypy>=1.14")
    session.install(".")
    session.run("python", "-m", "pytest", "-q", "tests/python/test_stubs.py")


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    version, free_threaded = facts(session.virtualenv.interpreter)
    # newer hypothesis has no wheel for free-threaded 3.13
    hypothesis = "hypothesis<6.156" if free_threaded and version == (3, 13) else "hypothesis>=6"
    session.install("pytest>=8", hypothesis)
    if not free_threaded:  # there greenlet turns the GIL on, or can't be built
        session.install("greenlet")
    session.install(".")
    consumers = version in CONSUMERS and not free_threaded
    if consumers:
        session.install("setuptools", "cython", "meson", "ninja", "cmake")
    selection = [] if consumers else ["-m", "not consumer"]
    session.run("python", "-m", "pytest", "-q", *selection, *session.posargs)
    if version >= (3, 14) and not session.posargs:
        # the interpreter's own compiler changes how frames are run
        jit = [
            "tests/python/test_truth.py",
            "tests/python/test_dump.py",
            "tests/python/test_fatal.py",
            "tests/conformance/test_faulthandler_conformance.py",
        ]
        session.run("python", "-m", "pytest", "-q", *jit, env={"PYTHON_JIT": "1"})


@nox.session
def sanitize(session: nox.Session) -> None:
    """The C tests under AddressSanitizer and UndefinedBehaviorSanitizer, ThreadSanitizer, and valgrind."""
    session.install("meson>=1.3", "ninja")
    plain = "build-plain"
    build(session, plain, "-Dbuildtype=debugoptimized")
    session.run("meson", "test", "-C", plain, "--print-errorlogs", "-t", "10")
    # the tests of frames look at the very instructions that sanitizers change
    sanitized = "build-sanitize"
    build(session, sanitized, "-Dbuildtype=debugoptimized", "-Db_sanitize=address,undefined", "-Db_lundef=false")
    options = "detect_leaks=0"  # a leak check needs ptrace, and the core doesn't allocate
    session.run("meson", "test", "-C", sanitized, "--print-errorlogs", "-t", "10", "--suite", "memory",
                env={"ASAN_OPTIONS": options, "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1"})  # fmt: skip
    threads = "build-threads"
    build(session, threads, "-Dbuildtype=debugoptimized", "-Db_sanitize=thread", "-Db_lundef=false")
    session.run("meson", "test", "-C", threads, "--print-errorlogs", "-t", "10", "--suite", "threads")
    build(session, "build-valgrind", "-Dbuildtype=debugoptimized", "-Dimages=40")
    suppressions = os.path.abspath("tests/c/guard.supp")
    wrap = f"--wrap=valgrind -q --error-exitcode=9 --suppressions={suppressions}"
    session.run("meson", "test", "-C", "build-valgrind", "--print-errorlogs", "-t", "10", "--suite", "memory", wrap)


@nox.session
def fuzz(session: nox.Session) -> None:
    """libFuzzer over the recorded images: a minute, or as many seconds as are given.  Needs clang."""
    session.install("meson>=1.3", "ninja")
    folder = "build-fuzz"
    build(session, folder, "-Dbuildtype=debugoptimized", "-Db_sanitize=address,undefined", "-Db_lundef=false",
          "-Dfuzz=true", env={"CC": "clang"})  # fmt: skip
    found = os.path.join(folder, "found")
    os.makedirs(found, exist_ok=True)
    seconds = session.posargs[0] if session.posargs else "60"
    session.run(f"{folder}/tests/fuzz/fuzz_walk", f"-max_total_time={seconds}", "-timeout=20", "-max_len=65536",
                f"-artifact_prefix={found}/", "-print_final_stats=1", found, "tests/fuzz/corpus",
                external=True, env={"ASAN_OPTIONS": "detect_leaks=0"})  # fmt: skip


def build(session: nox.Session, folder: str, *options: str, env: dict[str, str] | None = None) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    session.run("meson", "setup", "-Dtests=true", *options, folder, silent=True, env=env)
    session.run("ninja", "-C", folder, silent=True)
