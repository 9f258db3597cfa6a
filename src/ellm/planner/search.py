"""From all plans to the best (APEX, arXiv 2411.17651, section 3.4), simulating as few as will do.

    all plans ─ do not fit
              ─ as good as another (prospect.py)
              ─ cannot be best, nor on the front (bounds.py)       by plans already simulated
              ─ worse by estimate, where there are many             estimate.py
              ─ worse on the first requests                        successive halving
    what is left is simulated on all requests

Bounds lose nothing.  An estimate may, and so may halving (Jamieson and Talwalkar 2016, arXiv
1502.07943): what is better in the beginning of a trace need not be better in the end.  A thorough
search leaves both out, and simulates whatever neither memory nor bounds exclude.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from math import ceil

from ellm.planner.figures import Figures, front
from ellm.planner.heuristic import heuristic
from ellm.planner.objective import Wish
from ellm.planner.prospect import Prospect, representatives
from ellm.planner.workers import Task, Workers
from ellm.sim.anatomy.transformer import Transformer
from ellm.sim.parallel.plan import Plan
from ellm.sim.report import Report

# Of the trace in the first round of halving; fewer requests than that say little.
FIRST_SHARE, FEWEST = 1 / 8, 32
# So many plans, or fewer, are simulated on some requests, and on all.
SHORTLIST, FINALISTS = 32, 8
# Plans between two looks at who is still in: the same for any number of processes.
_AT_ONCE = 8
# Plans this close in every way are one to a round of halving.
_SLACK = 0.02

Progress = Callable[[int, int], None]
"""Told how many simulations have ended, and how many there will be at most."""


@dataclass(frozen=True, slots=True)
class Trial:
    """A plan that served the whole trace."""

    prospect: Prospect
    report: Report

    @property
    def plan(self) -> Plan:
        return self.prospect.plan

    @property
    def figures(self) -> Figures:
        return Figures.of(self.report)


@dataclass(slots=True)
class Counts:
    """What became of all plans; each is in one of the first six.  `short` counts simulations of a
    part of the trace."""

    unfit: int = 0
    alike: int = 0
    bounded: int = 0
    estimated: int = 0
    halved: int = 0
    simulated: int = 0
    short: int = 0


@dataclass(frozen=True, slots=True)
class Found:
    """Plans simulated on all requests, the best first.

    `usual` is the heuristic plan for the most devices, None where it does not fit.
    """

    trials: Sequence[Trial]
    front: Sequence[Trial]
    usual: Trial | None
    counts: Counts

    @property
    def best(self) -> Trial:
        return self.trials[0]

    @property
    def second(self) -> Trial | None:
        return self.trials[1] if len(self.trials) > 1 else None


@dataclass(slots=True)
class Search:
    """Among `prospects`, of which at least one fits, for whoever serves `requests` best."""

    transformer: Transformer
    per_node: int
    wish: Wish
    workers: Workers
    requests: int
    thorough: bool = False
    progress: Progress = lambda done, most: None
    counts: Counts = field(default_factory=Counts)
    _trials: list[Trial] = field(default_factory=list)
    _done: int = 0
    _most: int = 0

    def run(self, prospects: Sequence[Prospect]) -> Found:
        fitting = [one for one in prospects if one.at_best is not None]
        usual = self._usual(fitting)
        kept = fitting if self.thorough else representatives(fitting)
        self.counts.unfit = len(prospects) - len(fitting)
        first = self._scouts(kept)
        first += [one for one in usual if one not in first]
        left = self._by_promise([one for one in kept if one not in first])
        self.counts.alike = len(fitting) - len(first) - len(left)
        self._most = len(first) + len(left)
        self._try(first)
        if not self.thorough:
            left = self._halved(left)
        while left := self._in_reach(left):
            self._try(left[:_AT_ONCE])
            left = left[_AT_ONCE:]
        self.counts.simulated = len(self._trials)
        ranked = self.wish.ranked(self._trials, lambda trial: trial.figures)
        usual_trial = next((one for one in ranked if usual and one.plan == usual[0].plan), None)
        return Found(ranked, front(ranked, lambda one: one.figures), usual_trial, self.counts)

    def _usual(self, fitting: Sequence[Prospect]) -> list[Prospect]:
        most = max(one.bound.devices for one in fitting)
        plan = heuristic(self.transformer, most, self.per_node)
        return [one for one in fitting if one.plan == plan]

    def _scouts(self, prospects: Sequence[Prospect]) -> list[Prospect]:
        """The most promising plan of each number of devices: what others are measured by."""
        chosen: dict[int, Prospect] = {}
        for one in self._by_promise(prospects):
            chosen.setdefault(one.bound.devices, one)
        return list(chosen.values())

    def _by_promise(self, prospects: Sequence[Prospect]) -> list[Prospect]:
        return self.wish.ranked(prospects, lambda one: one.promise)

    def _in_reach(self, prospects: Sequence[Prospect]) -> list[Prospect]:
        """Those that may still come first, or be on the front."""
        known = [trial.figures for trial in self._trials]
        left = [
            one
            for one in prospects
            if not self.wish.hopeless(one.bound, known)
            or not any(figures.covers(one.bound) for figures in known)
        ]
        self.counts.bounded += len(prospects) - len(left)
        self._most -= len(prospects) - len(left)
        return left

    def _halved(self, prospects: Sequence[Prospect]) -> list[Prospect]:
        """Who is left after serving longer and longer beginnings of the trace; the best first."""
        share = max(FIRST_SHARE, FEWEST / self.requests)
        left = self._in_reach(prospects)
        if len(left) > SHORTLIST:
            promised = [(one, one.promise) for one in left]
            self.counts.estimated = len(left) - SHORTLIST
            self._most -= len(left) - SHORTLIST
            left = self._chosen(promised, SHORTLIST)
        while share < 1 and len(left) > FINALISTS:
            count = ceil(share * self.requests)
            self._most += len(left)
            reports = self._reports([Task(one.plan, count) for one in left])
            self.counts.short += len(left)
            scored = [(one, Figures.of(r)) for one, r in zip(left, reports, strict=True)]
            after = self._chosen(scored, max(FINALISTS, ceil(len(left) / 2)))
            self.counts.halved += len(left) - len(after)
            self._most -= len(left) - len(after)
            left, share = self._in_reach(after), 2 * share
        return left

    def _chosen(self, scored: Sequence[tuple[Prospect, Figures]], count: int) -> list[Prospect]:
        """Half of them by the objective, then those on the front, then the next; best first."""
        ranked = self.wish.ranked(scored, lambda pair: pair[1])
        best = ranked[: ceil(count / 2)]
        rest = ranked[len(best) :]
        edge = front([*best, *rest], lambda pair: pair[1], _SLACK)
        spread = [pair for pair in rest if pair in edge]
        others = [pair for pair in rest if pair not in edge]
        chosen = [*best, *[*spread, *others][: count - len(best)]]
        return [one for one, _ in chosen]

    def _try(self, prospects: Sequence[Prospect]) -> None:
        reports = self._reports([Task(one.plan, self.requests) for one in prospects])
        self._trials += [Trial(*pair) for pair in zip(prospects, reports, strict=True)]

    def _reports(self, tasks: Sequence[Task]) -> Iterator[Report]:
        for report in self.workers.reports(tasks):
            self._done += 1
            self.progress(self._done, self._most)
            yield report
