"""What is printed of a running thread has happened: stacks whose possibility can be judged, on every kind of program."""

from __future__ import annotations

import sys

import pytest
import truth


@pytest.mark.parametrize("variant", truth.VARIANTS)
def test_no_impossible_stack(variant):
    result = truth.run(variant, 1)
    print(truth.report(variant, result))
    assert result["stacks"] > 100
    assert result["impossible"] == 0, "\n".join(result.reasons)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="a heap frame read without care mostly looks possible")
def test_the_judge_finds_impossible_stacks():
    result = truth.run("deep", 1, sampler=truth.STILL)
    assert result["impossible"] > 0, truth.report("deep", result)
