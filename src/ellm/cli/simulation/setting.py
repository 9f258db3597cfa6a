"""From flags to a deployment."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from ellm.cli.simulation import options as flags
from ellm.core.config import MemoryConfig, SchedulerConfig
from ellm.core.errors import ConfigError
from ellm.core.units import format_bytes
from ellm.sim.anatomy.formats import Formats
from ellm.sim.anatomy.transformer import Transformer
from ellm.sim.deployment import Deployment
from ellm.sim.devices.device import Device
from ellm.sim.devices.known import find_device
from ellm.sim.parallel.plan import Plan, uniform
from ellm.sim.parallel.saved import read_plan
from ellm.sim.profile import Profile, is_profile

UNUSED = (
    "model", "tokenizer", "served_model_name", "dtype", "device", "kv_offloading_dir",
    "chat_template", "threads", "load_format",
)  # fmt: skip
"""Fields of EngineArgs that a simulation has no use for, or reads itself."""
MOST_DEVICES = 4096
_BELOW_A_BYTE = ("int4", "fp4")
_NARROW = ("fp8", "int8", *_BELOW_A_BYTE)


@dataclass(frozen=True, kw_only=True)
class Division:
    """How the model is divided, as flags that say it."""

    tensor_parallel_size: flags.TensorParallel = 1
    pipeline_parallel_size: flags.PipelineParallel = 1
    data_parallel_size: flags.DataParallel = 1
    enable_expert_parallel: flags.ExpertParallel = False
    plan_file: flags.PlanFile = None

    def plan(self, transformer: Transformer) -> Plan:
        """What `ellm plan` wrote, or so many replicas and stages of so many devices each.

        Raises ConfigError for both at once, where the model cannot be divided so, and for more
        devices than a simulation should have.
        """
        plan = self._plan(transformer)
        require_few(plan.devices)
        return plan

    def _plan(self, transformer: Transformer) -> Plan:
        sizes = self.data_parallel_size, self.pipeline_parallel_size, self.tensor_parallel_size
        if self.plan_file is None:
            if self.enable_expert_parallel:
                _require_experts(transformer, self.tensor_parallel_size)
            return uniform(transformer, *sizes, self.enable_expert_parallel)
        if sizes != (1, 1, 1) or self.enable_expert_parallel:
            raise ConfigError(
                f"{self.plan_file} says how the model is divided: give --plan or sizes, not both"
            )
        return read_plan(self.plan_file, transformer)


def require_few(devices: int) -> None:
    """Raise ConfigError for so many that it would take very long without a word."""
    if devices > MOST_DEVICES:
        raise ConfigError(
            f"{devices} devices are too many to simulate: {MOST_DEVICES} at most; simulate one "
            "copy with its part of the requests"
        )


def _require_experts(transformer: Transformer, ways: int) -> None:
    """Raise ConfigError where whole experts cannot be divided over so many devices."""
    least = max(2, ways)
    splits = [split.name for cell in transformer.cells for split in cell.splits(least)]
    if "expert" not in splits:
        raise ConfigError(
            f"--enable-expert-parallel: {transformer.name} has no experts that {least} devices "
            "could divide: leave it out"
        )
    if ways < least:
        raise ConfigError(
            "--enable-expert-parallel divides experts over the devices of a stage, and there is "
            "one: give --tensor-parallel-size too"
        )


def deploy(
    device: str,
    transformer: Transformer,
    formats: Formats,
    plan: Plan,
    memory: MemoryConfig,
    limits: SchedulerConfig,
) -> Deployment:
    """On a known device, one that a file describes, or a machine that was profiled.

    Raises ConfigError.
    """
    if is_profile(device):
        profile = Profile.load(Path(device))
        require_memory(profile.device, memory)
        if plan.devices > plan.replicas and profile.device.per_node == 1:
            raise ConfigError(
                f"{device} was measured on one device, which nothing joins to others, so that a "
                "copy of the model has one: take copies with -dp, or a --device of the catalogue "
                "or a .toml"
            )
        if not profile.knows(transformer, formats):
            print(
                f"warning: {device} was measured with {profile.model.name} in "
                f"{profile.model.dtype}: {transformer.name} in {formats.activations} goes by the "
                "roofline of that machine",
                file=sys.stderr,
            )
        return Deployment.by_profile(
            transformer, profile, formats=formats, plan=plan, memory=memory, limits=limits
        )
    found = find_device(device)
    require_memory(found, memory)
    return Deployment.by_roofline(
        transformer, found, formats=formats, plan=plan, memory=memory, limits=limits
    )


def require_memory(device: Device, memory: MemoryConfig) -> None:
    """Raise ConfigError where more is to be used than the device has."""
    if memory.budget is not None and memory.budget > device.memory:
        raise ConfigError(
            f"--memory {format_bytes(memory.budget)} is more than the "
            f"{format_bytes(device.memory)} of {device.name}: give less, or leave it out to use "
            "all but a margin"
        )


def formats_of(weights: str, kv: str, transformer: Transformer) -> Formats:
    """`auto` is the model's own format.  Narrow weights leave the other numbers as they were.

    Raises ConfigError for KV of less than a byte a number, which no engine here could address.
    """
    if kv in _BELOW_A_BYTE:
        raise ConfigError(
            f"--kv-cache-dtype {kv} is less than a byte a number: fp8 and int8 are the narrowest"
        )
    own = transformer.dtype or "bf16"
    plain = own if weights in ("auto", *_NARROW) else weights
    return Formats(own if weights == "auto" else weights, plain if kv == "auto" else kv, plain)
