"""Nodes as Mooncake's, the tiers below them, and what they are asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ellm.core.config import MemoryConfig, SchedulerConfig, SchedulingPolicy
from ellm.memory.budget import default_budget
from ellm.sim.anatomy.shapes import find_transformer
from ellm.sim.deployment import CHUNK_BYTES, Deployment
from ellm.sim.devices.known import find_device
from ellm.sim.file_tier import FileTier
from ellm.sim.host import Host
from ellm.sim.parallel.plan import uniform
from ellm.sim.workload.arrivals import evened, hastened
from ellm.sim.workload.item import BLOCK_TOKENS, Item
from ellm.sim.workload.traces import read_trace
from harness import traces

TRACE = "mooncake/conversation_trace.jsonl"
MODEL, DEVICE, WIDTH = "llama-3.1-70b", "A100-80GB", 8
# The longest request of the trace has 128 thousand tokens with its answer.
CONTEXT = 131072
SEQUENCES = 256
# Of a node, for each of its eight devices: Mooncake counts on 1 TB of memory; a DGX A100 has eight
# drives of 3.84 TB.
HOST_BYTES = 10**12 // WIDTH
FILE_BYTES = 3_840_000_000_000
# What a drive on four lanes of PCI Express 4.0 does, assumed: bytes a second, written and read.
FILE = FileTier(down=3.5e9, up=6.5e9)
# Mooncake's thresholds, in seconds.
TTFT, TBT = 30.0, (0.1, 0.2, 0.3)


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """Whether beginnings are kept, `below` bytes a device for those that must leave it, on a
    `drive` or in host memory, and `pace` as objective for the time between tokens."""

    keeps: bool = True
    below: int = 0
    drive: bool = False
    pace: float | None = None


ARMS: Mapping[str, Arm] = {
    "file": Arm(below=FILE_BYTES, drive=True),
    "host": Arm(below=HOST_BYTES),
    "device": Arm(),
    "no reuse": Arm(keeps=False),
    "file, objectives": Arm(below=FILE_BYTES, drive=True, pace=TBT[0]),
}


def deployment(arm: Arm, nodes: int = 1) -> Deployment:
    """`nodes` of eight devices, each with a copy of the model."""
    transformer, device = find_transformer(MODEL), find_device(DEVICE)
    budget = default_budget(device.memory)
    made = Deployment.by_roofline(
        transformer,
        device,
        plan=uniform(transformer, replicas=nodes, tensor=WIDTH),
        memory=MemoryConfig(
            budget=budget,
            chunk_bytes=CHUNK_BYTES,
            block_size=BLOCK_TOKENS,
            prefix_caching=arm.keeps,
            offload_bytes=arm.below,
        ),
        limits=SchedulerConfig(
            max_num_seqs=SEQUENCES,
            max_model_len=CONTEXT,
            policy=SchedulingPolicy.FCFS if arm.pace is None else SchedulingPolicy.SLO,
            ttft_slo=None if arm.pace is None else TTFT,
            tpot_slo=arm.pace,
        ),
    )
    return replace(made, host=Host(budget, tier=FILE)) if arm.drive else made


def conversations(count: int | None) -> Sequence[Item]:
    """The first `count` requests of the trace, those with one time stamp spread until the next."""
    return evened(read_trace(traces.find(TRACE), count).items)


def at_rate(items: Sequence[Item], rate: float) -> list[Item]:
    """The same at `rate` requests a second on average."""
    return hastened(items, rate * items[-1].arrival / len(items))
