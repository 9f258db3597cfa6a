"""The conformance of `tests/cpu/kernel_conformance.py` on a real device."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "cpu"))

from kernel_conformance import *  # noqa: F403
