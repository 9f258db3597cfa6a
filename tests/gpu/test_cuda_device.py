"""The conformance of `tests/null/test_driver.py` again, on a real device."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "null"))

from test_driver import *  # noqa: F403

from ellm.memory.driver import Driver

del test_more_than_there_is_is_refused_whole  # noqa: F821 (a device is not filled for a test)


@pytest.fixture
def driver() -> Iterator[Driver]:
    from ellm.memory.drivers.cuda import CudaDriver

    made = CudaDriver()
    yield made
    made.close()
