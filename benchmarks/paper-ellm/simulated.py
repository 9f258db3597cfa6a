"""One arm under one stream of requests, in virtual time, with every step written down."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from arms import Arm

from ellm.core.load import StepLoad
from ellm.core.objectives import Objectives
from ellm.obs.stats import ElasticStats
from ellm.sim.cluster import Cluster
from ellm.sim.costs.stage import StageTime
from ellm.sim.report import Report
from ellm.sim.workload.item import Item


class Step(NamedTuple):
    """`seconds` are those of the device."""

    tokens: int
    sequences: int
    seconds: float

    @property
    def decodes(self) -> bool:
        """Whether no prompt is in it."""
        return self.tokens == self.sequences


@dataclass(slots=True)
class Watched:
    """A stage's time, and what it was asked for."""

    stage: StageTime
    steps: list[Step] = field(default_factory=list)

    @property
    def parts(self) -> Any:
        return self.stage.parts

    @property
    def windows(self) -> Any:
        return self.stage.windows

    def seconds(self, loads: Sequence[StepLoad]) -> float:
        found = self.stage.seconds(loads)
        self.steps.append(Step(loads[0].tokens, loads[0].sequences, found))
        return found


@dataclass(frozen=True, slots=True)
class Run:
    report: Report
    steps: Sequence[Step]
    elastic: ElasticStats


def served(arm: Arm, items: Sequence[Item], wished: Objectives) -> Run:
    """Every request to its last token."""
    deployment = arm.deployment(wished)
    watched = Watched(deployment.stages[0])
    deployment = replace(deployment, stages=(watched,))
    with arm.changed():
        cluster = Cluster(deployment.lanes(), deployment.device.overhead)
        cluster.run(items)
    report = Report.of(cluster, deployment, wished)
    return Run(report, watched.steps, cluster.engines[0].stats.elastic)
