"""The conformance of `tests/e2e/device_conformance.py` on a GPU."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "e2e"))

from device_conformance import *  # noqa: F403
from device_conformance import Setting


@pytest.fixture(scope="module")
def setting() -> Setting:
    """Two layers of Llama-3.1-8B beside the reference, all of them served by the command."""
    return Setting(
        device="cuda",
        dtype="bfloat16",
        slack=0.4,
        mean=0.1,
        cut={"num_hidden_layers": 2},
        memory="8GiB",
        whole=(
            "llama-3.1-8b", "--load-format", "dummy", "--memory", "40GiB", "--max-model-len", "8K",
        ),
    )  # fmt: skip
