"""Puts the folders of shared test helpers on the path; fixtures that several files share."""

import pathlib
import sys

import pytest

HERE = pathlib.Path(__file__).parent
sys.path[:0] = [str(HERE / "conformance"), str(HERE / "python")]


@pytest.fixture(scope="session")
def started_python(tmp_path_factory):
    """The interpreter of an environment with the start-up line: FAULTPROOF=1 and faultproof run work there."""
    from started import environment

    return environment(tmp_path_factory.mktemp("started") / "env")
