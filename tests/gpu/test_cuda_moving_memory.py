"""Chunks unmapped, parked, fetched and reused beside a busy stream, on a real device."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

PROGRAM = Path(__file__).with_name("moving_on_cuda.py")


def moved(*arguments: str) -> dict[str, int]:
    done = subprocess.run(
        [sys.executable, str(PROGRAM), *arguments], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, int] = json.loads(done.stdout)
    return found


def test_nothing_is_unmapped_or_overwritten_under_a_kernel_that_runs() -> None:
    found = moved()
    assert found["wrong"] == 0, found
    for what in ("ended", "left", "taken back", "returned", "cancelled", "spills"):
        assert found[what] > 10, found


def test_copies_that_wait_for_no_kernel_would_be_noticed() -> None:
    assert moved("unfenced")["wrong"] > 0
