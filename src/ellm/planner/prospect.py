"""Plans before they are simulated: whether they fit, and what they could reach."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from ellm.core.load import StepLoad
from ellm.planner.bounds import Outlook, distinct, seats_of
from ellm.planner.case import Case
from ellm.planner.estimate import Estimator, Traffic
from ellm.planner.figures import Figures
from ellm.planner.need import Need
from ellm.sim.deployment import Deployment
from ellm.sim.parallel.plan import Plan

# Loads at which plans are compared: sequences that decode, and tokens of prompts.
_DECODING = (1, 8, 64, 256)
_PROMPTS = (256, 1024, 4096)
# Plans whose steps take as long within this share are one.
ALIKE = 0.01


@dataclass(frozen=True, slots=True)
class Prospect:
    """A plan that fits where `at_best` says what it could reach; None where it does not fit.

    `estimate` is what it will roughly do.  `fastest` are the least TTFT and TPOT of any request.
    `pace` are seconds of steps of some loads, in the order of `_loads`, through the whole pipeline
    and through the slowest stage.
    """

    plan: Plan
    ranks: int
    need: Need
    at_best: Figures | None = None
    estimate: Figures | None = None
    fastest: tuple[float, float] = (0.0, 0.0)
    pace: tuple[float, ...] = ()

    @property
    def bound(self) -> Figures:
        assert self.at_best is not None, self.plan
        return self.at_best

    @property
    def promise(self) -> Figures:
        assert self.estimate is not None, self.plan
        return self.estimate


@dataclass(frozen=True, slots=True)
class _View:
    """What is known of a division of the model, of which replicas are made."""

    prospect: Prospect
    outlook: Outlook
    estimator: Estimator


class Judge:
    """Looks at plans.  Those that differ in replicas only cost as much as one."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self._traffic = Traffic.of(case.demand)
        self._seen: dict[Plan, _View | Prospect] = {}

    def prospect(self, plan: Plan) -> Prospect:
        single = replace(plan, replicas=1)
        if single not in self._seen:
            self._seen[single] = self._look(single)
        view = self._seen[single]
        if isinstance(view, Prospect):
            return replace(view, plan=plan)
        return replace(
            view.prospect,
            plan=plan,
            at_best=view.outlook.figures(plan.replicas, len(self.case.items)),
            estimate=view.estimator.figures(plan.replicas, self.case.slo),
        )

    def _look(self, plan: Plan) -> _View | Prospect:
        """A prospect alone for a plan that does not fit."""
        case = self.case
        need, ranks = Need.of(case, plan), plan.ranks(case.transformer)
        if need.is_too_much or not (deployment := case.deployment(plan)).fits():
            return Prospect(plan, ranks, need)
        seats = seats_of(deployment, need)
        outlook = Outlook(deployment, seats, case.demand, case.slo)
        pace = tuple(_pace(deployment, ranks, round(self._traffic.length)))
        return _View(
            Prospect(plan, ranks, need, fastest=outlook.fastest, pace=pace),
            outlook,
            Estimator(deployment, seats, self._traffic),
        )


def _pace(deployment: Deployment, ranks: int, length: int) -> Iterable[float]:
    stages = distinct(deployment.stages)
    for loads in _loads(ranks, length):
        times = [(stage.seconds(loads), count) for stage, count in stages]
        yield sum(count * seconds for seconds, count in times)
        yield max(seconds for seconds, _ in times)


def _loads(ranks: int, length: int) -> Iterable[Sequence[StepLoad]]:
    """Sequences spread evenly over the ranks, then a prompt on one of them, then one on each."""
    for count in _DECODING:
        here = [count // ranks + (rank < count % ranks) for rank in range(ranks)]
        yield [StepLoad(n, n * length, n * length, n) for n in here]
    for tokens in _PROMPTS:
        prompt = StepLoad.of([(tokens, 0)])
        yield [prompt] + [StepLoad()] * (ranks - 1)
        yield [StepLoad.of([(max(1, tokens // ranks), 0)])] * ranks


def representatives(prospects: Sequence[Prospect]) -> list[Prospect]:
    """Those that fit, without plans that another one is as good as.

    The other has as many replicas, stages and ranks; at every load its steps are no more than
    `ALIKE` slower, and its memory has no less room.  So a cell of which a model has one in sixty
    does not multiply the plans to simulate.
    """
    fitting = [one for one in prospects if one.at_best is not None]
    kept: dict[tuple[int, ...], list[Prospect]] = {}
    for one in sorted(fitting, key=lambda each: sum(each.pace)):
        plan = one.plan
        alike = kept.setdefault((plan.replicas, plan.stages, plan.width, one.ranks), [])
        if not any(_as_good(other, one) for other in alike):
            alike.append(one)
    chosen = {one.plan for group in kept.values() for one in group}
    return [one for one in fitting if one.plan in chosen]


def _as_good(one: Prospect, other: Prospect) -> bool:
    slower = 1 + ALIKE
    tokens, others = one.need.room / one.need.token, other.need.room / other.need.token
    return tokens * slower >= others and all(
        mine <= slower * theirs for mine, theirs in zip(one.pace, other.pace, strict=True)
    )
