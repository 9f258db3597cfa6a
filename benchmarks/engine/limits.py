"""What the machine itself can do, measured in the same run as the engines."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).resolve().parent / "limits.c"


def limits(threads: int) -> dict[str, Any] | None:
    """Bytes and bfloat16 operations a second, and by which unit; None without a C compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "limits"
        flags = ["-O3", "-march=native", "-pthread"]
        subprocess.run([compiler, *flags, "-o", str(program), str(SOURCE)], check=True)
        said = subprocess.run([program, str(threads)], check=True, capture_output=True, text=True)
    found: dict[str, Any] = json.loads(said.stdout)
    return found


def higher(one: Mapping[str, Any] | None, other: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The better of two measurements: another program may have been in the way of either."""
    if one is None or other is None:
        return None
    best = {name: max(one[name], other[name]) for name in ("read", "arithmetic")}
    return {**best, "unit": one["unit"]}
