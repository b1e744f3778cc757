"""Fixtures of these tests."""

from __future__ import annotations

import pytest
from guest_support import build


@pytest.fixture(scope="session")
def library(tmp_path_factory) -> str:
    """Somebody else's handlers, in C."""
    return build(tmp_path_factory.mktemp("library"))
