"""A cell in virtual time: the server as it was set, on a device that somebody describes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from cells import HERE, Cell

from ellm.core.config import MemoryConfig, MemoryMode, SchedulerConfig
from ellm.sim.anatomy.formats import Formats
from ellm.sim.anatomy.shapes import find_transformer
from ellm.sim.cluster import Dispatch
from ellm.sim.deployment import Deployment
from ellm.sim.devices.device import Device
from ellm.sim.devices.known import find_device
from ellm.sim.parallel.plan import uniform
from ellm.sim.report import Report
from ellm.sim.scenario import Scenario, simulate
from ellm.sim.workload.item import Item

SHAPES = {"llama": "llama-3.1-70b", "mistral": "mistral-large-2407"}
FORMATS = {"bf16": Formats(), "fp8": Formats(weights="fp8", kv="fp8")}
# Device files by how weights are kept; calibrate.py writes them.
FILES = {
    "bf16": HERE / "h100-vllm-0.6.0.toml",
    "fp8, as stored": HERE / "h100-vllm-0.6.0-fp8.toml",
    "fp8, quantized when loaded": HERE / "h100-vllm-0.6.0-fp8-loaded.toml",
}
NCCL = HERE / "nvlink4-nccl.toml"


def calibrated(cell: Cell) -> Device:
    """What calibrate.py found of such a server."""
    return wired(find_device(FILES[cell.weights]), cell)


def by_data_sheet(cell: Cell) -> Device:
    """The catalogue's H100, as for a server of which nothing is known."""
    return find_device("H100")


def wired(device: Device, cell: Cell) -> Device:
    """With the sums that the server used."""
    return device if cell.own_all_reduce else replace(device, fabric=str(NCCL))


def deployment(cell: Cell, device: Device) -> Deployment:
    """Its plan and limits; memory in fixed shares, as vLLM divides it.

    A whole prompt waits for no chunk, and decodes go on beside it: vLLM 0.6.0 lets them wait.
    """
    transformer = find_transformer(SHAPES[cell.family])
    return Deployment.by_roofline(
        transformer,
        device,
        formats=FORMATS[cell.weights.partition(",")[0]],
        plan=uniform(transformer, replicas=cell.replicas, tensor=cell.tensor),
        memory=MemoryConfig(mode=MemoryMode.STATIC, budget=int(cell.utilization * device.memory)),
        limits=SchedulerConfig(
            max_num_seqs=cell.max_num_seqs,
            max_num_batched_tokens=cell.chunk,
            chunked_prefill=cell.chunk is not None,
            max_model_len=cell.context or transformer.max_positions,
        ),
    )


def serve(
    cell: Cell, device: Device, sent: Sequence[Sequence[Item]]
) -> tuple[dict[str, float], Report]:
    """The means that were measured, of every request of all replicas together.

    Requests went to replicas in turn, so the whole plan under one stream of them is what ran.
    """
    items = sorted((item for each in sent for item in each), key=lambda item: item.arrival)
    scenario = Scenario(
        deployment=deployment(cell, device), items=items, dispatch=Dispatch.ROUND_ROBIN
    )
    outcome = simulate(scenario)
    served = outcome.served
    assert all(each.finished for each in served), outcome.report.reasons
    after = sum((each.tpot or 0.0) * (each.output - 1) for each in served)
    figures = {
        "ttft_ms": 1e3 * sum(each.ttft for each in served) / len(served),
        "tpot_ms": 1e3 * after / sum(each.output - 1 for each in served),
        "e2e_s": sum(each.latency for each in served) / len(served),
    }
    return figures, outcome.report
