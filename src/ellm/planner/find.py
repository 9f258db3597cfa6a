"""The planner's front door."""

from __future__ import annotations

from ellm.planner.case import Case
from ellm.planner.objective import Wish
from ellm.planner.refusals import require_fit, require_objectives, require_requests
from ellm.planner.search import Found, Progress, Search
from ellm.planner.space import device_counts, plans
from ellm.planner.workers import Workers


def find_plan(
    case: Case,
    wish: Wish,
    workers: Workers,
    most: int,
    *,
    thorough: bool = False,
    progress: Progress = lambda done, ahead: None,
) -> Found:
    """The best plans for up to `most` devices.

    `case` is what the workers make, too.  Raises BudgetError where nothing fits, ConfigError where
    nothing can be as wished.
    """
    require_requests(case)
    per_node = case.device.per_node
    space = [
        plan
        for devices in device_counts(most, per_node)
        for plan in plans(case.transformer, devices, per_node)
    ]
    prospects = list(workers.prospects(space))
    require_fit(prospects, case, most)
    require_objectives(prospects, wish, lambda plan: plan.describe(case.transformer))
    search = Search(
        transformer=case.transformer,
        per_node=per_node,
        wish=wish,
        workers=workers,
        requests=len(case.items),
        thorough=thorough,
        progress=progress,
    )
    return search.run(prospects)
