"""Fixtures that every test file may use."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

# The same cases every time: a failure in CI is a failure here.
settings.register_profile("repeatable", derandomize=True, database=None, deadline=None)
settings.load_profile("repeatable")


@pytest.fixture(scope="session", autouse=True)
def caches_of_their_own(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The user's own caches are left alone."""
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with the reference figures and real data sets; tests that need it are skipped without it."""
    folder = os.environ.get("YOLOFLOW_SHARED")
    if not folder:
        pytest.skip("YOLOFLOW_SHARED is not set: the reference figures and real data sets are not here")
    return Path(folder)
