"""The machine as a device of the simulator, for models that were not measured on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

import torch

from ellm.cli.profiling.served import ServerTimes
from ellm.llm.profiling.copies import link_bandwidth
from ellm.llm.profiling.engine import MeasuredModel
from ellm.llm.profiling.fit import StepFit
from ellm.llm.profiling.operators import OperatorTimes
from ellm.llm.step_times import device_name
from ellm.memory.budget import machine_bytes
from ellm.scheduling.coefficients import Coefficients
from ellm.sim.anatomy.formats import Formats
from ellm.sim.anatomy.reader import read_transformer
from ellm.sim.device_fit import NO_OVERHEAD, StepRun, attention_share, fit_overhead
from ellm.sim.devices.device import Device, Efficiency

_SOURCES: Mapping[str, str] = MappingProxyType(
    {
        "flops": "Measured: products of a wide matrix with many rows.",
        "bandwidth": "Measured: one row through matrices that no cache holds.",
        "efficiency": "Measured: the model's own products, and its attention in whole steps.",
        "overhead": "Fitted to whole steps of the model and of the bundled ones, and to a server.",
        "idle_watts": "Not known.",
        "busy_watts": "Not known.",
    }
)


def step_run(model: MeasuredModel) -> StepRun:
    """A model's steps without what it takes to begin a request; those with prompts only where
    launches do not hold them up."""
    blueprint, found = model.blueprint, StepFit.of(model.steps)
    dtype = str(blueprint.dtype)
    formats = Formats(dtype, dtype, dtype)
    transformer = read_transformer(blueprint.config, model.name)
    steps = [
        (each.load, each.lasts - found.start * each.point.prompts)
        for each in model.steps
        if found.launched is None or not each.point.prompts
    ]
    launched = None if found.launched is None else found.launched.step
    return StepRun(transformer, formats, steps, launched)


@dataclass(frozen=True, slots=True)
class Parts:
    """What was measured: operators and whole steps by so many threads, and a server."""

    device: str
    threads: int
    operators: OperatorTimes
    coefficients: Coefficients
    server: ServerTimes

    def served(self, device: Device) -> Device:
        """`device` with what a server adds to the engine's overhead."""
        server, engine = self.server, device.overhead
        overhead = replace(
            engine,
            step=engine.step + server.step,
            sequence=engine.sequence + server.sequence,
            request=server.request,
            completion=server.completion,
            prompt_token=server.prompt_token,
            output_token=server.output_token,
            start=server.start,
        )
        return replace(device, overhead=overhead)


def make_device(parts: Parts, runs: Sequence[StepRun]) -> Device:
    """Its overheads are those of the engine alone; the first of `runs` is the profiled model."""
    operators, own = parts.operators, runs[0]
    peak = operators.flops[own.formats.activations]
    pairs = attention_share(own.transformer, parts.coefficients, peak)
    where = device_name(parts.device)
    on_cpu = parts.device == "cpu"
    threads = f", {parts.threads} thread{'s' if parts.threads > 1 else ''}" if on_cpu else ""
    device = Device(
        name=f"{where}{threads}",
        memory=machine_bytes() if on_cpu else _device_bytes(parts.device),
        bandwidth=operators.bandwidth,
        flops=operators.flops,
        host_bandwidth=operators.bandwidth if on_cpu else link_bandwidth(parts.device),
        per_node=1,
        fabric="none",
        network="none",
        idle_watts=0.0,
        busy_watts=0.0,
        efficiency=Efficiency(
            matmul=operators.matmul_share,
            attention=pairs or operators.matmul_share,
            bandwidth=operators.bandwidth_share,
            formats={},
        ),
        overhead=NO_OVERHEAD,
        sources=_SOURCES,
    )
    return replace(device, overhead=fit_overhead(device, runs))


def _device_bytes(device: str) -> int:
    return int(torch.cuda.get_device_properties(device).total_memory)
