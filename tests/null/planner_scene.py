"""Small cases for the planner: few requests, short answers."""

from __future__ import annotations

import random

from ellm.core.config import MemoryConfig, MemoryMode, SchedulerConfig, SchedulingPolicy
from ellm.core.objectives import Objectives
from ellm.planner.case import Case
from ellm.planner.prospect import Judge, Prospect
from ellm.planner.space import device_counts, plans
from ellm.sim.anatomy.formats import Formats
from ellm.sim.anatomy.shapes import find_transformer
from ellm.sim.devices.known import find_device
from ellm.sim.workload.item import Item

CONTEXT = 2048


def requests(count: int, rate: float, seed: int = 0, longest: int = 600) -> list[Item]:
    """Half of them continue one of three beginnings."""
    rng, now = random.Random(seed), 0.0
    found = []
    for _ in range(count):
        prompt, blocks = rng.randint(1, longest), ()
        if rng.random() < 0.5:
            blocks = tuple(rng.randrange(3) for _ in range(prompt // 64))
        found.append(Item(prompt, rng.randint(1, 24), now, None, blocks, 64))
        now += rng.expovariate(rate) if rate else 0.0
    return found


def small_case(
    model: str = "llama-3.1-8b",
    device: str = "L4",
    *,
    items: list[Item] | None = None,
    slo: Objectives | None = None,
    weights: str = "bf16",
    seqs: int = 16,
    context: int = CONTEXT,
    mode: MemoryMode = MemoryMode.ELASTIC,
    caching: bool = True,
    below: int = 0,
) -> Case:
    slo = slo or Objectives(ttft=2.0, tpot=0.1)
    return Case(
        transformer=find_transformer(model),
        device=find_device(device),
        formats=Formats(weights),
        memory=MemoryConfig(mode=mode, prefix_caching=caching, offload_bytes=below),
        limits=SchedulerConfig(
            max_num_seqs=seqs,
            max_model_len=context,
            policy=SchedulingPolicy.SLO,
            ttft_slo=slo.ttft,
            tpot_slo=slo.tpot,
        ),
        items=requests(20, 4.0) if items is None else items,
        slo=slo,
    )


def prospects(case: Case, most: int) -> list[Prospect]:
    judge, per_node = Judge(case), case.device.per_node
    counts = device_counts(most, per_node)
    space = [plan for n in counts for plan in plans(case.transformer, n, per_node)]
    return [judge.prospect(plan) for plan in space]
