"""CPython's own test_faulthandler, unmodified, on faultproof.faulthandler: what passes with the standard module passes here."""

from __future__ import annotations

import importlib.util
import re

import pytest
from swapped import Environment

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("test.test_faulthandler") is None,
    reason="this interpreter was installed without CPython's test package",
)

RESULT = re.compile(r"^(test_\w+) \(.*?\)(?:\n.*?)? ?\.\.\. (?:.*\n)*?(ok|FAIL|ERROR|skipped .*)$", re.M)
COMMAND = ("-m", "unittest", "-v", "test.test_faulthandler")


def results(output: str) -> dict[str, str]:
    found: dict[str, str] = {}
    name = None
    for line in output.splitlines():
        start = re.match(r"(test_\w+) \(", line)
        if start:
            name = start[1]
        end = re.search(r"(?:\.\.\. |^)(ok|FAIL|ERROR|skipped\b.*)$", line)
        if name and end and ("... " in line or not start):
            found[name] = end[1].split()[0]
            name = None
    return found


def test_cpythons_own_tests(tmp_path):
    env = Environment(tmp_path / "env", "faulthandler")
    ours = env.run(*COMMAND)
    modules, spawned = env.modules(), env.spawned()
    assert len(modules) == len(spawned) + 1, f"{len(spawned)} children started, {len(modules) - 1} reported"
    assert all("faultproof.faulthandler" in line for line in modules), modules
    got = results(ours.stdout)
    assert len(got) >= 40, ours.stdout
    bad = {name: result for name, result in got.items() if result in ("FAIL", "ERROR")}
    if bad:
        expected = results(env.standard(*COMMAND).stdout)
        bad = {name: result for name, result in bad.items() if expected.get(name) == "ok"}
    assert not bad, f"{bad}\n{ours.stdout}"
