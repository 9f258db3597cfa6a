"""The policy half, and the package's front door, load no tensor library."""

from __future__ import annotations

import subprocess
import sys

import pytest

POLICY_HALF = ("core", "obs", "memory", "kv", "scheduling", "engine", "sim", "planner")

PROGRAM = """
import importlib, pkgutil, sys
name = sys.argv[1]
module = importlib.import_module(name)
if name != "ellm":
    for found in pkgutil.walk_packages(module.__path__, name + "."):
        importlib.import_module(found.name)
print(",".join(sorted({"torch", "numpy", "transformers", "triton"} & set(sys.modules))))
"""


@pytest.mark.parametrize("name", ["ellm", *(f"ellm.{room}" for room in POLICY_HALF)])
def test_a_fresh_interpreter_loads_no_tensor_library(name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, name], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == ""
