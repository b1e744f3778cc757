"""The C API's sources keep what the safe core keeps: the order of the stages, and only signal-safe calls."""

from __future__ import annotations

import pathlib
import re
import subprocess

import pytest
import test_source as core

API = core.ROOT / "src" / "api"
# Normal context, or a handler of their own that is reviewed with the rest of the file.
NORMAL = {"guard.c", "init.c", "table.c"}
STAGES_BEFORE = {"base", "reader", "layout", "model", "walk"}


def test_it_builds_on_the_walk_only():
    for path in API.glob("*.[ch]"):
        for name in re.findall(r'^#include "(.*)"', path.read_text(), re.M):
            assert name == "faultproof.h" or name.split("/")[0] in STAGES_BEFORE | {"api"}, (path.name, name)


def test_no_library_with_state_outside_of_normal_context():
    forbidden = re.compile(r"#include <(Python|stdio|malloc|execinfo|dlfcn|link)\.h>|__thread|_Thread_local")
    for path in API.glob("*.[ch]"):
        assert path.name in NORMAL or not forbidden.search(path.read_text()), path


def symbols(folder: pathlib.Path, path: pathlib.Path) -> tuple[set[str], set[str]]:
    """What an object file defines and what it asks for."""
    out = folder / (path.parent.name + path.stem + ".o")
    includes = [f"-I{core.ROOT / i}" for i in ("src", "src/safe", "include")]
    flags = ["-std=gnu11", "-O2", "-fPIC", "-fno-stack-protector", "-fvisibility=hidden", *includes]
    subprocess.run([core.CC, *flags, "-c", str(path), "-o", str(out)], check=True, cwd=folder)
    defined, asked = set(), set()
    for line in subprocess.check_output(["nm", str(out)], text=True).splitlines():
        kind, name = line.split()[-2:]
        (asked if kind in "Uw" else defined).add(name)
    return defined, asked


@core.needs_cc
def test_it_calls_only_what_is_signal_safe(tmp_path):
    allowed = {
        line.split()[0]
        for line in (core.ROOT / "tests/lint/signal_safe.txt").read_text().splitlines()
        if line[:1] not in "#"
    }
    files = [p for p in API.glob("*.c") if p.name not in NORMAL]
    known, asked = set(allowed), {}
    for path in [*core.HANDLER_PATH, *files]:
        defined, undefined = symbols(tmp_path, path)
        known |= defined
        if path in files:
            asked |= dict.fromkeys(undefined, path.name)
    strange = {n: p for n, p in asked.items() if n not in known and not n.startswith(("__start_", "__stop_"))}
    # the guard is the package's (trigger/control.c) or the amalgamation's (api/guard.c)
    assert strange == {}


def test_the_amalgamation_has_every_source():
    text = (core.ROOT / "tools" / "amalgamate.py").read_text()
    if not text:
        pytest.fail("tools/amalgamate.py is empty")
    for path in API.glob("*.c"):
        assert path.name == "table.c" or f'"{path.stem}"' in text, f"{path.name} isn't in tools/amalgamate.py"
