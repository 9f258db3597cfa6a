"""Where there is no device, the tier that needs one says so in a line, and fails nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

GPU_TESTS = Path(__file__).parents[1] / "gpu"


def test_without_a_device_one_line_stands_for_the_tier() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", str(GPU_TESTS), str(GPU_TESTS / "test_cuda_ops.py")],
        capture_output=True,
        text=True,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
    )
    assert done.returncode == 0, done.stdout
    said = [line for line in done.stdout.splitlines() if line.startswith("tests/gpu:")]
    assert len(said) == 1
    assert "no CUDA device here" in said[0]
    assert "skip" not in done.stdout.lower()
