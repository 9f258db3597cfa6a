"""The conformance of `tests/cpu/draw_conformance.py` on a real device."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "cpu"))

from draw_conformance import *  # noqa: F403
