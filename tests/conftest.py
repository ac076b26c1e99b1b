"""Fixtures that several test files use."""

from pathlib import Path

import pytest

from tests.helpers import SHARED, make_tiny


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data that lies beside the checkout."""
    if not (SHARED / "videos").is_dir():
        pytest.skip(f"real data is missing: {SHARED}")
    return SHARED


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> Path:
    """A tiny data set that no test changes."""
    return make_tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def own_tiny(tmp_path) -> Path:
    """A tiny data set for tests that change it."""
    return make_tiny(tmp_path / "data")
