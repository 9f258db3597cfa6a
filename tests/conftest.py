"""What every tier shares: a marker by folder, threads, property-test profiles."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

TIERS = ("null", "cpu", "gpu", "e2e")

settings.register_profile("house", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("house-ci", settings.get_profile("house"), derandomize=True)
settings.load_profile("house-ci" if os.environ.get("CI") else "house")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test by its folder; skip what needs a device that is not here."""
    root = Path(__file__).parent
    for item in items:
        tier = item.path.relative_to(root).parts[0]
        assert tier in TIERS, f"{item.path} belongs to no tier"
        item.add_marker(tier)
        if tier == "gpu" and not _has_cuda():
            item.add_marker(pytest.mark.skip(reason="no CUDA device on this machine"))


def _has_cuda() -> bool:
    import torch

    return torch.cuda.is_available()


@pytest.fixture(autouse=True, scope="session")
def _threads() -> None:
    """Two threads, where torch is already loaded: enough to find a race, few enough to share."""
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(2)
