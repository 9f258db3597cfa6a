"""What the average step of a simulated plan is spent on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from types import MappingProxyType

from ellm.core.load import StepLoad
from ellm.planner.case import Case
from ellm.planner.search import Trial
from ellm.sim.costs.roofline import Roofline
from ellm.sim.costs.stage import StageTime
from ellm.sim.fabrics.fabric import Fabric
from ellm.sim.fabrics.interconnect import Interconnect

# Over which nothing takes any time.
_FREE = Fabric(
    name="free",
    bandwidth=math.inf,
    efficiency=1.0,
    launch=0.0,
    latency=0.0,
    measured=MappingProxyType({}),
    sources=MappingProxyType({}),
)


@dataclass(frozen=True, slots=True)
class Anatomy:
    """Seconds of a step through all stages.

    products  weights are read and multiplied, with what passes between products
    cached    keys and values of earlier tokens are read and compared
    travel    devices exchange what they have computed
    overhead  the host plans and launches
    sequences decode in it, over all ranks, on `devices` that work on it
    """

    products: float
    cached: float
    travel: float
    overhead: float
    sequences: float
    devices: int

    @property
    def seconds(self) -> float:
        return self.products + self.cached + self.travel + self.overhead

    @property
    def per_token(self) -> float:
        """What makes seconds of a step into device-seconds of a token."""
        return self.devices / max(self.sequences, 1e-9)

    def as_json(self) -> dict[str, float]:
        return asdict(self)


def anatomy(case: Case, trial: Trial) -> Anatomy:
    """Of the mean step: the least work of the trace, over the steps that it took."""
    plan, work = trial.plan, case.demand.total
    steps = max(1, trial.report.steps)
    sums = (work.tokens, work.pairs, work.kv_tokens, work.sequences)
    load = StepLoad(*(math.ceil(each / steps) for each in sums))
    ranks = plan.ranks(case.transformer)
    links = Interconnect(_FREE, _FREE, case.device.per_node)
    free = Roofline(case.transformer, case.device, case.formats, links).stages(plan)
    alone = _seconds(free, [load._replace(attention=0, kv_tokens=0)] * ranks)
    local = _seconds(free, [load] * ranks)
    over = case.device.overhead
    overhead = over.layer * len(case.transformer.blocks)
    overhead += plan.stages * (over.step + over.sequence * load.sequences)
    return Anatomy(
        products=alone - overhead,
        cached=local - alone,
        travel=_seconds(case.deployment(plan).stages, [load] * ranks) - local,
        overhead=overhead,
        sequences=ranks * work.sequences / steps,
        devices=plan.width,
    )


def _seconds(stages: Sequence[StageTime], loads: Sequence[StepLoad]) -> float:
    return sum(stage.seconds(loads) for stage in stages)
