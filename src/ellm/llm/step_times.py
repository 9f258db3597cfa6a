"""What a model's steps took on this machine, kept from one run to the next."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from pathlib import Path

import torch

from ellm.llm.blueprint import Blueprint
from ellm.scheduling.coefficients import Coefficients
from ellm.scheduling.cost import StepCost
from ellm.scheduling.cost_file import load_cost, save_cost

# Fewer observations than this say too little to be worth a file.
WORTH_KEEPING = 200


class StepTimes:
    """The step-time model of one model, and its file in the user's cache directory.

    The file belongs to a shape of model, a dtype, a device, its kernels and a number of threads,
    so that times learned elsewhere are not believed here.
    """

    def __init__(self, blueprint: Blueprint, device: str, kernels: str) -> None:
        spec = blueprint.spec
        provenance = {
            "model": f"{spec.family} {spec.num_layers}x{spec.hidden_size} "
            f"mlp {spec.intermediate_size} heads {spec.num_heads}/{spec.num_kv_heads}"
            f"x{spec.head_dim} vocabulary {spec.vocab_size}",
            "dtype": str(blueprint.dtype).removeprefix("torch."),
            "device": device_name(device),
            "kernels": kernels,
            "threads": str(torch.get_num_threads()),
        }
        digest = hashlib.blake2b(json.dumps(provenance).encode(), digest_size=8).hexdigest()
        self._path = _cache_directory() / f"{digest}.json"
        self.cost: StepCost = load_cost(self._path, provenance)
        self._known = self.cost.observations

    def know(self, coefficients: Coefficients) -> None:
        """Have those who come next start with `coefficients`, whatever was learned before."""
        self.cost = StepCost.informed(coefficients, self.cost.provenance)
        save_cost(self._path, self.cost)

    def save(self) -> None:
        """Write what has been learned since, if it is worth it."""
        if self.cost.observations >= self._known + WORTH_KEEPING:
            save_cost(self._path, self.cost)


def _cache_directory() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "ellm" / "step-times"


def device_name(device: str) -> str:
    if device != "cpu":
        return torch.cuda.get_device_name(device)
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
