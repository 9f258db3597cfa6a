"""What every tier shares: a marker by folder, one thread, property-test profiles."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# One thread: with two on a busy machine, every parallel region waits for the other's time slice,
# and a suite of minutes takes an hour.  Set before torch reads it; servers in children inherit it.
os.environ["OMP_NUM_THREADS"] = "1"
# What engines learn about their step times stays out of the user's cache.
os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="ellm-test-cache-")

TIERS = ("null", "cpu", "gpu", "e2e")

settings.register_profile("house", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("house-ci", settings.get_profile("house"), derandomize=True)
settings.load_profile("house-ci" if os.environ.get("CI") else "house")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--native", help="the folder of another build of the native library")


def pytest_configure(config: pytest.Config) -> None:
    if folder := config.getoption("--native"):
        import ellm.kernels.cpu as home

        home.__path__.insert(0, folder)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test by its folder."""
    root = Path(__file__).parent
    for item in items:
        tier = item.path.relative_to(root).parts[0]
        assert tier in TIERS, f"{item.path} belongs to no tier"
        item.add_marker(tier)
