"""Models, devices and traffic that plans are looked for."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ellm.core.config import MemoryConfig, SchedulerConfig, SchedulingPolicy
from ellm.core.objectives import Objectives
from ellm.planner.case import Case
from ellm.planner.objective import Objective, Wish
from ellm.sim.anatomy.formats import Formats
from ellm.sim.anatomy.shapes import find_transformer
from ellm.sim.devices.known import find_device
from ellm.sim.workload.arrivals import arrivals, timed
from ellm.sim.workload.item import Item
from ellm.sim.workload.lengths import SHAREGPT, LogNormal, drawn
from ellm.sim.workload.traces import read_trace

# Mean tokens of prompts and answers: APEX's creation has few and many (arXiv 2411.17651, section
# 5.1; https://github.com/microsoft/apex_plus, creation_05), its summarization many and few.
LENGTHS = {
    "sharegpt": SHAREGPT,
    "creation": (LogNormal(308, longest=12_000), LogNormal(1144, longest=4000)),
    "summary": (LogNormal(4000, longest=12_000), LogNormal(150, longest=4000)),
}
LONGEST = 16_384
# What others share of a server at a time, as vLLM has it.
SEQUENCES = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """`traffic` is the bundled chat trace or one of `LENGTHS`; `rate` is requests/s, infinite for
    all at once.  Up to `devices` may be taken, and all of them count for the heuristic plan."""

    model: str
    device: str
    devices: int
    weights: str = "auto"
    traffic: str = "chat"
    requests: int = 400
    rate: float
    slo: Objectives = field(default=Objectives(ttft=1.0, tpot=0.05))
    objective: Objective = Objective.GOODPUT

    @property
    def judged(self) -> bool:
        return self.objective is Objective.GOODPUT

    @property
    def wish(self) -> Wish:
        return Wish(self.objective, self.slo if self.judged else Objectives())

    def case(self, seed: int, requests: int) -> Case:
        """The first `requests` of its traffic."""
        transformer = find_transformer(self.model)
        own = transformer.dtype or "bf16"
        weights = own if self.weights == "auto" else self.weights
        slo = self.slo if self.judged else Objectives()
        return Case(
            transformer=transformer,
            device=find_device(self.device),
            formats=Formats(weights, own, own),
            memory=MemoryConfig(prefix_caching=True),
            limits=SchedulerConfig(
                max_num_seqs=SEQUENCES,
                max_model_len=LONGEST,
                policy=SchedulingPolicy.SLO if self.judged else SchedulingPolicy.FCFS,
                ttft_slo=slo.ttft,
                tpot_slo=slo.tpot,
            ),
            items=self._items(seed, requests),
            slo=slo,
            seed=seed,
        )

    def _items(self, seed: int, requests: int) -> Sequence[Item]:
        if self.traffic == "chat":
            items: Sequence[Item] = read_trace("chat", requests, context=LONGEST).items
        else:
            items = drawn(requests, *LENGTHS[self.traffic], seed)
        if math.isinf(self.rate):
            return timed(items, [0.0] * len(items))
        return timed(items, arrivals(len(items), self.rate, seed))


_KIMI: Mapping[str, Any] = {"model": "kimi-k2", "device": "H200", "weights": "fp8"}
_LLAMA: Mapping[str, Any] = {"model": "llama-3.1-70b", "device": "H100"}
_PATIENT = Objectives(ttft=5.0, tpot=0.1)

SETTINGS: Mapping[str, Setting] = {
    # How long the search takes.
    "llama-8": Setting(**_LLAMA, devices=8, rate=8),
    "llama-16": Setting(**_LLAMA, devices=16, rate=20),
    "kimi-32": Setting(**_KIMI, devices=32, traffic="sharegpt", requests=600, rate=50),
    "kimi-64": Setting(**_KIMI, devices=64, traffic="sharegpt", requests=800, rate=100),
    # How much better the best plan is than the heuristic one, on two nodes and four.
    "kimi-summary": Setting(**_KIMI, devices=32, traffic="summary", rate=12, slo=_PATIENT),
    "kimi-creation": Setting(
        **_KIMI,
        devices=16,
        traffic="creation",
        rate=math.inf,
        objective=Objective.THROUGHPUT,
    ),
    "qwen-chat": Setting(
        model="qwen3-235b-a22b",
        device="H100",
        devices=16,
        traffic="sharegpt",
        requests=600,
        rate=30,
    ),
    "llama-creation": Setting(
        **_LLAMA, devices=16, traffic="creation", rate=math.inf, objective=Objective.THROUGHPUT
    ),
}
