"""What is printed of a running thread has happened: stacks whose possibility can be judged, on every kind of program."""

from __future__ import annotations

import re
import subprocess
import sys
import sysconfig
import tempfile

import greenlets
import pytest
import truth

FREE_THREADED = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))


@pytest.mark.parametrize("variant", truth.VARIANTS)
def test_no_impossible_stack(variant):
    result = truth.run(variant, 1)
    print(truth.report(variant, result))
    assert result["stacks"] > 100
    assert result["impossible"] == 0, "\n".join(result.reasons)


@pytest.mark.parametrize(
    "sampler", [f"{kind} thread" for kind in ("dump vm", "info pipe", "compact mem")] + ["info vm handler"]
)
@pytest.mark.parametrize("variant", ["tiny", "deep", "nested", "mixed"])
def test_no_impossible_stack_by_system_calls(variant, sampler):
    """They are too slow to see whether a thread has moved: without care tiny has one impossible stack of some 100."""
    result = truth.run(variant, 1, sampler=sampler)
    print(truth.report(variant, result))
    assert result["stacks"] > 0
    assert result["impossible"] == 0, "\n".join(result.reasons)
    # the collector gives no part of a stack; of a deep one that changes all the time few readings reach the root
    if variant in ("tiny", "deep") and not sampler.startswith("compact") and not FREE_THREADED:
        assert result["partial"] or not result["bare"], "the frames that stood still are missing"


IN_C = """
import itertools, os, sys, threading
from faultproof import faulthandler
def busy():
    while True:
        sum(itertools.repeat(1, 5 * 10**7))
def watch():
    faulthandler._watch(int(sys.argv[1]), 1, 0.001, -1, False, False)
    os._exit(0)
threading.Thread(target=watch).start()
busy()
"""


def test_a_thread_that_runs_c_code_with_the_gil_is_certain_by_system_calls():
    """Its Python frames stand still however long that takes, though nothing but many readings says so."""
    with tempfile.TemporaryFile() as out:
        subprocess.run([sys.executable, "-c", IN_C, str(out.fileno())], pass_fds=[out.fileno()], timeout=60, check=True)
        out.seek(0)
        stacks = re.split(r"#.*\n", out.read().decode())
    stacks = [s for s in stacks if " in busy" in s or truth.MARK in s]
    assert len(stacks) > 20
    assert sum(truth.MARK not in s for s in stacks) > len(stacks) / 2


@pytest.mark.parametrize("way", greenlets.WAYS)
def test_greenlets_that_switch_all_the_time(way):
    """Between two of them the chain has no entry frames, which lie on the C stack that is exchanged."""
    pytest.importorskip("greenlet", reason="greenlet isn't installed")
    result = greenlets.run(way, 2)
    print(greenlets.report(way, result))
    assert result["stacks"] > 100
    assert result["impossible"] == 0, result.reasons[:3]


@pytest.mark.skipif(sys.version_info < (3, 11), reason="a heap frame read without care mostly looks possible")
def test_the_judge_finds_impossible_stacks():
    result = truth.run("deep", 1, sampler=truth.STILL)
    assert result["impossible"] > 0, truth.report("deep", result)
