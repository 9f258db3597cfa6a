"""The conformance of `tests/cpu/draw_conformance.py` on a real device."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

if not torch.cuda.is_available():
    pytest.skip("no CUDA device on this machine", allow_module_level=True)

sys.path.append(str(Path(__file__).parents[1] / "cpu"))

from draw_conformance import *  # noqa: F403
