"""The CUDA backend on the CPU: its kernels by Triton's interpreter, in a process of their own.

Triton decides when a kernel is defined whether it is to be interpreted.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize(
    ("conformance", "tests"), [("kernel", "test"), ("draw", "test"), ("engine", "graphs or chunks")]
)
def test_interpreted(conformance: str, tests: str) -> None:
    file = Path(__file__).with_name(f"{conformance}_conformance.py")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        str(file),
        "-k",
        tests,
    ]
    done = subprocess.run(
        command, env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-4000:]
