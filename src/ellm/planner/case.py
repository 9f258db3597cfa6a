"""Everything that plans are compared for, but the plan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from ellm.core.config import MemoryConfig, SchedulerConfig
from ellm.core.objectives import Objectives
from ellm.memory.budget import default_budget
from ellm.planner.demand import Demand
from ellm.sim.anatomy.formats import Formats
from ellm.sim.anatomy.transformer import Transformer
from ellm.sim.cluster import Dispatch
from ellm.sim.deployment import Deployment
from ellm.sim.devices.device import Device
from ellm.sim.parallel.plan import Plan
from ellm.sim.report import Report
from ellm.sim.scenario import Scenario, simulate
from ellm.sim.workload.item import Item


@dataclass(frozen=True, kw_only=True)
class Case:
    """A model, devices, requests in order of arrival, and how soon they are wanted."""

    transformer: Transformer
    device: Device
    formats: Formats
    memory: MemoryConfig
    limits: SchedulerConfig
    items: Sequence[Item]
    slo: Objectives = field(default=Objectives())
    dispatch: Dispatch = Dispatch.LEAST_LOADED
    seed: int = 0

    @cached_property
    def demand(self) -> Demand:
        return Demand.of(self.items, self.limits.max_model_len, self.memory.prefix_caching)

    @property
    def budget(self) -> int:
        """Bytes of each device that may be used."""
        return self.memory.budget or default_budget(self.device.memory)

    def deployment(self, plan: Plan) -> Deployment:
        return Deployment.by_roofline(
            self.transformer,
            self.device,
            formats=self.formats,
            plan=plan,
            memory=self.memory,
            limits=self.limits,
        )

    def simulated(self, plan: Plan, requests: int) -> Report:
        """What became of the first `requests` on `plan`, without memory over time.

        Raises BudgetError when the plan does not fit.
        """
        scenario = Scenario(
            deployment=self.deployment(plan),
            items=self.items[:requests],
            wished=self.slo,
            dispatch=self.dispatch,
            seed=self.seed,
        )
        return replace(simulate(scenario).report, memory=())
