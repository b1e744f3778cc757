"""Runs the test suites of other projects without and with faultproof.install(), and shows what fails only with it.

Usage: python bench/soak/third_party.py [--keep FOLDER] [NAME ...]

The interpreter that runs this is the one under test, and must be able to import faultproof.  Each NAME is a row of the
table below; without one all are run.  A suite gets an environment of its own, its newest source distribution for this
interpreter, and two runs.  Tests whose outcome is worse with faultproof are run again by themselves, three times each
way: only one that is worse each time is called a difference.  FOLDER keeps the environments, logs and JUnit files;
without it they go into a temporary folder.

The exit status is 1 if there was a difference, else 2 if a suite could not be run, else 0.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import xml.etree.ElementTree
from typing import NamedTuple

import faultproof

REPEATS = 3
TIME_LIMIT = 1800  # seconds for one run of one suite


class Suite(NamedTuple):
    """One row: what the tests need, what some of them like to have, and pytest's arguments in the unpacked folder."""

    needs: list[str]
    likes: list[str]
    arguments: list[str]
    environment: dict[str, str] | None = None
    # Whether its tests are about what the exceptiongroup package puts into traceback before 3.11.
    patched: bool = False


SUITES = {
    "tblib": Suite(
        ["pytest", "pytest-benchmark"],
        ["twisted"],
        ["tests", "README.rst"],
        {"PYTHONNODEBUGRANGES": "yes"},  # as in its own CI: a pickled traceback has no positions
    ),
    "exceptiongroup": Suite(["pytest"], [], ["tests"], patched=True),
    "stack_data": Suite(
        # newer pygments has other colours than its expected texts
        ["pytest", "typeguard", "pygments==2.16.1", "littleutils"],
        ["cython", "setuptools"],
        ["tests"],
    ),
    "rich": Suite(["pytest", "attrs"], [], ["tests"]),
    "pytest": Suite(
        ["attrs", "hypothesis", "mock", "requests", "setuptools", "xmlschema", "argcomplete"],
        ["pexpect", "pyyaml", "numpy"],
        ["testing"],
    ),
    "trio": Suite(
        ["pytest", "async_generator", "astor"],
        ["trustme", "pyopenssl", "jedi"],
        # the installed package is tested, as its own CI does it
        ["--pyargs", "trio", "-p", "trio._tests.pytest_plugin", "--skip-optional-imports"],
        patched=True,
    ),
    "loguru": Suite(["pytest", "freezegun", "colorama"], [], ["tests"]),
    "structlog": Suite(
        ["pytest", "pytest-asyncio", "simplejson", "freezegun", "pretend"],
        ["time-machine", "twisted", "rich", "better-exceptions"],
        ["tests"],
    ),
    "sentry-sdk": Suite(
        # many of its tests change the process and ask for one of their own
        ["pytest", "pytest-asyncio", "pytest-forked", "pytest-localserver", "jsonschema", "werkzeug", "responses"],
        ["executing", "asttokens", "pure_eval", "brotli", "pysocks", "httpcore[http2]"],
        ["-o", "addopts=", "tests"],  # its own options ask for coverage, which only costs time here
    ),
}

# Imported by a line in a .pth file of the environment.  No environment variable switches it, because tests start
# interpreters with an environment of their own.
START = """\
import sys

if {install}:
    import faultproof

    faultproof.install()
if {keep_classes} and sys.version_info < (3, 11):
    # With a hook of its own in place the exceptiongroup package, which pytest imports, doesn't replace
    # TracebackException; else only the interpreter's code would be tested.
    sys.excepthook = lambda *args: sys.__excepthook__(*args)
"""

# Writes down what the run really tested, so that one which tested the standard module by mistake is noticed, and gives
# each test case of the JUnit file the test's id.
PLUGIN = r"""
import json
import os
import re
import sys

only = os.environ.pop("THIRD_PARTY_ONLY", None)
only = only and set(json.loads(only))
state = os.environ.pop("THIRD_PARTY_STATE")


def write_state():
    import faulthandler
    import traceback

    names = ("faulthandler", "traceback")
    modules = [sys.modules[name] is sys.modules.get("faultproof." + name) for name in names]
    before = sys.getprofile()
    called = []
    sys.setprofile(lambda frame, event, argument: called.append(frame.f_code.co_name))
    try:
        traceback.format_exception(ValueError, ValueError(), None)
    finally:
        sys.setprofile(before)
    with open(state, "a") as file:
        print(json.dumps([all(modules), any(modules), "__init__" not in called]), file=file)


def pytest_configure(config):
    write_state()


def pytest_sessionfinish(session):
    write_state()


def pytest_collection_modifyitems(items):
    for item in items:
        item.user_properties.append(("id", re.sub("0x[0-9a-f]+", "0x", item.nodeid)))
    if only is not None:
        items[:] = [item for item in items if item.user_properties[-1][1] in only]
"""


class CannotRun(Exception):
    """Why a suite could not be run."""


def call(arguments: list[object], log: pathlib.Path, why: str) -> None:
    with open(log, "a") as file:
        done = subprocess.run([*map(str, arguments)], stdin=subprocess.DEVNULL, stdout=file, stderr=file)
    if done.returncode:
        raise CannotRun(f"{why}: see {log}")


class Environment:
    """A virtual environment for one suite, with faultproof in it and a pip of its own."""

    def __init__(self, folder: pathlib.Path):
        self.folder = folder
        self.log = folder / "setup.log"
        self.python = folder / "venv" / "bin" / "python"
        call([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], self.log, "no environment")
        self.site = next((folder / "venv" / "lib").glob("python*/site-packages"))
        (self.site / "faultproof").symlink_to(pathlib.Path(faultproof.__file__).parent)
        (self.site / "third_party.pth").write_text("import third_party_start\n")
        (self.site / "third_party_start.py").write_text("")
        (self.site / "third_party_plugin.py").write_text(PLUGIN)
        self._add_pip()

    def _add_pip(self) -> None:
        """Not with ensurepip: some distributions of the interpreter come without it."""
        own = subprocess.run([sys.executable, "-m", "pip", "--version"], capture_output=True).returncode == 0
        pip = [sys.executable, "-m", "pip"] if own else [shutil.which("pip") or shutil.which("pip3") or "pip"]
        version = f"{sys.version_info[0]}.{sys.version_info[1]}"
        wheels = self.folder / "pip"
        options = ["--no-deps", "--only-binary", ":all:", "--python-version", version, "--dest", wheels]
        call([*pip, "download", *options, "pip"], self.log, "no pip")
        wheel = next(wheels.glob("*.whl"))
        call([self.python, wheel / "pip", "install", wheel], self.log, "pip not installed")

    def pip(self, why: str, *arguments: object) -> None:
        call([self.python, "-m", "pip", *arguments], self.log, why)

    def switch(self, install: bool, keep_classes: bool) -> None:
        start = START.format(install=install, keep_classes=keep_classes)
        (self.site / "third_party_start.py").write_text(start)


class Runner:
    """One suite, installed and ready to be run either way."""

    def __init__(self, name: str, folder: pathlib.Path):
        self.name, self.suite, self.folder = name, SUITES[name], folder
        self.environment = Environment(folder)
        self.missing: list[str] = []
        self.version = "?"

    def prepare(self) -> bool:
        """Download and install; False if the source distribution carries no tests."""
        environment = self.environment
        sdist = self.folder / "sdist"
        options = ["--no-deps", "--no-binary", self.name, "--dest", sdist]
        environment.pip("no source distribution", "download", *options, self.name)
        self.archive = next(sdist.glob("*.tar.gz"))
        self.version = self.archive.name[: -len(".tar.gz")].rpartition("-")[2]
        source = self.unpack()
        if next(source.rglob("test_*.py"), None) is None:
            return False
        environment.pip("not installed", "install", source, *self.suite.needs)
        for wish in self.suite.likes:
            try:
                environment.pip("", "install", "--only-binary", ":all:", wish)
            except CannotRun:
                self.missing.append(wish)
        return True

    def unpack(self) -> pathlib.Path:
        """A fresh copy for each run, in the same place each time: tests leave files behind, and show paths."""
        folder = self.folder / "source"
        shutil.rmtree(folder, ignore_errors=True)
        with tarfile.open(self.archive) as archive:
            archive.extractall(folder, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
        return next(folder.iterdir())

    def run(self, install: bool, only: list[str] | None = None, label: str = "") -> Run:
        self.environment.switch(install, keep_classes=not self.suite.patched)
        label = ("faultproof" if install else "plain") + label
        junit, log, state = (self.folder / f"{label}.{ending}" for ending in ("xml", "log", "state"))
        for old in (junit, log, state):
            old.unlink(missing_ok=True)
        source = self.unpack()
        temporary = self.folder / "tmp"
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        # what the machine says about Python should change no test, and the order of sets be the same in both runs
        settings = {
            name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PYTEST", "FAULTPROOF"))
        }
        settings.update(PYTHONHASHSEED="0", TMPDIR=str(temporary), THIRD_PARTY_STATE=str(state))
        settings.update(self.suite.environment or {})
        if only is not None:
            settings["THIRD_PARTY_ONLY"] = json.dumps(only)
        options = ["-v", "-p", "no:cacheprovider", "-p", "third_party_plugin", "--continue-on-collection-errors"]
        command = [self.environment.python, "-m", "pytest", *options, f"--junitxml={junit}", *self.suite.arguments]
        end = watch(command, source, settings, log)
        # a run that was killed has one line
        states = [json.loads(line) for line in state.read_text().splitlines()] if state.exists() else []
        if not states or (not end and len(states) != 2):
            raise CannotRun(f"{label}: nothing was run: see {log}")
        if states[0][:2] != [install, install] or states[-1][1] is not install:
            raise CannotRun(f"{label}: other modules than meant were tested")
        # the tests of exceptiongroup take traceback out of sys.modules and import it again
        return Run(end, *read_junit(junit), fast=states[-1][0] is install and states[-1][2])


class Run(NamedTuple):
    end: str  # how it was killed, or nothing
    outcomes: dict[str, str]
    texts: dict[str, str]  # why tests failed, without what differs from run to run
    fast: bool  # whether nobody had replaced traceback or a part of it at its end

    def counts(self) -> str:
        found = collections.Counter(self.outcomes.values())
        return ", ".join(f"{found[outcome]} {outcome}" for outcome in BADNESS if found[outcome]) + self.end


def watch(command: list[object], source: pathlib.Path, settings: dict[str, str], log: pathlib.Path) -> str:
    """Runs pytest; says how it died, if it did."""
    with open(log, "w") as file:
        process = subprocess.Popen(
            [*map(str, command)],
            cwd=source,
            env=settings,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            start_new_session=True,
        )
        try:
            status = process.wait(TIME_LIMIT)
        except BaseException as error:
            os.killpg(process.pid, signal.SIGKILL)  # with what the tests have started
            process.wait()
            if isinstance(error, subprocess.TimeoutExpired):
                return f" (stopped after {TIME_LIMIT} s)"
            raise
    return f" (killed by signal {-status})" if status < 0 else ""


BADNESS = ["passed", "skipped", "failed", "missing"]


def read_junit(path: pathlib.Path) -> tuple[dict[str, str], dict[str, str]]:
    """Outcomes and the texts of failures, by the test's id."""
    outcomes: dict[str, str] = {}
    texts: dict[str, str] = {}
    if not path.exists():
        return outcomes, texts
    for case in xml.etree.ElementTree.parse(path).iter("testcase"):
        ids = [entry.get("value") for entry in case.iter("property") if entry.get("name") == "id"]
        # what could not be collected has no id
        test = ids[0] if ids else f"{case.get('classname')}::{case.get('name')}"
        kinds = {child.tag for child in case}
        outcome = "failed" if kinds & {"failure", "error"} else "skipped" if "skipped" in kinds else "passed"
        # an error while a test is torn down is a case of its own
        outcomes[test] = max(outcome, outcomes.get(test, "passed"), key=BADNESS.index)
        for child in case:
            if child.tag in ("failure", "error"):
                # addresses, durations, random numbers and names of temporary folders
                texts[test] = texts.get(test, "") + re.sub(r"[0-9a-fx]*\d[0-9a-fx.]*", "#", child.text or "")
    return outcomes, texts


def badness(run: Run, test: str) -> int:
    return BADNESS.index(run.outcomes.get(test, "missing"))


def compare(runner: Runner, plain: Run, ours: Run) -> tuple[list[str], list[str]]:
    """The tests that are worse with faultproof each time, and those that were so only in the whole run."""
    tests = sorted(plain.outcomes.keys() | ours.outcomes.keys())
    worse = [test for test in tests if badness(ours, test) > badness(plain, test)]
    if not worse or ours.end:
        return worse, []
    plains, with_ours = [], []
    for count in range(1, REPEATS + 1):
        plains.append(runner.run(False, worse, f"-again-{count}"))
        with_ours.append(runner.run(True, worse, f"-again-{count}"))
    real = [
        test
        for test in worse
        if min(badness(run, test) for run in with_ours) > max(badness(run, test) for run in plains)
    ]
    return real, [test for test in worse if test not in real]


def report(runner: Runner) -> int:
    """Runs one suite both ways and prints what came of it; the number of differences."""
    if not runner.prepare():
        print(f"{runner.name} {runner.version}: the source distribution carries no tests", flush=True)
        return 0
    plain = runner.run(False)
    ours = runner.run(True)
    real, once = compare(runner, plain, ours)
    notes = [f"without {', '.join(runner.missing)}"] if runner.missing else []
    if not ours.fast:
        notes.append("the suite itself replaces traceback or parts of it: the interpreter's code was run then")
    print(f"{runner.name} {runner.version}: plain {plain.counts()}; with faultproof {ours.counts()}", *notes, sep="; ")
    # to be looked at by hand: a failure of their own can hide a difference
    other = [test for test in sorted(plain.texts) if ours.texts.get(test, plain.texts[test]) != plain.texts[test]]
    for title, tests in (("worse", real), ("worse only in the whole run", once), ("fails with another text", other)):
        for test in tests:
            before, after = (run.outcomes.get(test, "missing") for run in (plain, ours))
            print(f"    {title}: {test!a}: {before}, with faultproof {after}")
    sys.stdout.flush()
    return len(real) + bool(ours.end and not plain.end)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--keep", metavar="FOLDER", type=pathlib.Path)
    parser.add_argument("names", metavar="NAME", nargs="*", default=list(SUITES))
    arguments = parser.parse_args()
    unknown = [name for name in arguments.names if name not in SUITES]
    if unknown:
        parser.error(f"no such suite: {', '.join(unknown)}; there are {', '.join(SUITES)}")
    # a shell ignores it for what it starts in the background, and so would the tests, which send it to themselves
    signal.signal(signal.SIGINT, signal.default_int_handler)
    print(f"Python {sys.version.split()[0]}", flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder = (arguments.keep or pathlib.Path(temporary)).resolve()
        differences = broken = 0
        for name in arguments.names:
            place = folder / name
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir(parents=True)
            try:
                differences += report(Runner(name, place))
            except CannotRun as error:
                broken += 1
                print(f"{name}: could not be run: {error}", flush=True)
        print(f"{differences} differences, {broken} suites could not be run")
    return 1 if differences else 2 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
