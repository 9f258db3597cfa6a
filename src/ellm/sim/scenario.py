"""Everything a simulation depends on, and running it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ellm.core.objectives import Objectives
from ellm.sim.cluster import Cluster, Dispatch, Progress
from ellm.sim.deployment import Deployment
from ellm.sim.report import Report
from ellm.sim.served import Served
from ellm.sim.workload.item import Item


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """Requests in order of arrival on a deployment.  The same one always ends the same way.

    Goodput is judged by `wished`; what the scheduler aims at is in the deployment's limits.
    """

    deployment: Deployment
    items: Sequence[Item]
    wished: Objectives = field(default=Objectives())
    dispatch: Dispatch = Dispatch.LEAST_LOADED
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Outcome:
    """The figures, and what became of each request, in the order in which they reached it."""

    report: Report
    served: Sequence[Served]


def simulate(scenario: Scenario, progress: Progress | None = None) -> Outcome:
    """Serve every request to its last token, in virtual time.

    Raises BudgetError when weights or the longest context do not fit a device.
    """
    deployment = scenario.deployment
    overhead = deployment.device.overhead
    cluster = Cluster(deployment.lanes(), overhead, scenario.seed, scenario.dispatch)
    cluster.run(scenario.items, progress)
    return Outcome(Report.of(cluster, deployment, scenario.wished), cluster.served)
