"""The same workload in the simulator."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from ellm.llm.args import EngineArgs
from ellm.sim.anatomy.shapes import find_transformer
from ellm.sim.deployment import Deployment
from ellm.sim.profile import Profile
from ellm.sim.report import Report
from ellm.sim.scenario import Scenario, simulate
from ellm.sim.served import Served
from ellm.sim.workload.item import Item


def replay(
    profile: Profile, arguments: Mapping[str, Any], items: Sequence[Item], seed: int
) -> tuple[Sequence[Served], Report, float]:
    """What becomes of each request, in the order of `items`, which is that of their arrival; and
    seconds that the simulation took."""
    args = EngineArgs(**arguments)
    transformer = find_transformer(args.model)
    deployment = Deployment.by_profile(
        transformer,
        profile,
        memory=args.memory_config,
        limits=args.limits(transformer.max_positions),
    )
    began = time.perf_counter()
    outcome = simulate(Scenario(deployment=deployment, items=items, seed=seed))
    return outcome.served, outcome.report, time.perf_counter() - began
