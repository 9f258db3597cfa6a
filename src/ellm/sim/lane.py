"""Engines that step together, and the pipeline their steps pass."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from ellm.core.load import StepLoad
from ellm.core.output import SequenceOutput
from ellm.engine.engine import Engine
from ellm.sim.clock import VirtualClock
from ellm.sim.costs.stage import StageTime

_NOTHING = StepLoad()


@dataclass(slots=True)
class Pipeline:
    """Stages that one step after the other passes.  `busy` adds up their seconds."""

    stages: Sequence[StageTime]
    busy: float = 0.0
    _free_at: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._free_at = [0.0] * len(self.stages)

    def end(self, start: float, loads: Sequence[StepLoad]) -> float:
        """When a step that begins at `start` has passed all stages, each as soon as it is free."""
        now = start
        for place, stage in enumerate(self.stages):
            seconds = stage.seconds(loads)
            now = max(now, self._free_at[place]) + seconds
            self._free_at[place] = now
            self.busy += seconds
        return now


class UntilEnd:
    """The time of a step whose end is known: what is left of it."""

    def __init__(self, clock: VirtualClock) -> None:
        self._clock = clock
        self.end = 0.0

    def seconds(self, load: StepLoad) -> float:
        return max(0.0, self.end - self._clock.now())


class Lane:
    """One step at a time of each of `ranks`, which begin and end it together on one clock.

    A pipeline has as many lanes as stages, so that each stage has something to do.  A sequence
    that leaves the queue holds its step up for `start` seconds.
    """

    def __init__(
        self,
        clock: VirtualClock,
        ranks: Sequence[Engine],
        pipeline: Pipeline,
        time: UntilEnd,
        start: float = 0.0,
    ) -> None:
        self.clock = clock
        self.ranks = ranks
        self.pipeline = pipeline
        self._time = time
        self._start = start

    @property
    def has_work(self) -> bool:
        return any(rank.has_work for rank in self.ranks)

    def wake(self, now: float) -> None:
        """Nothing happened until `now`."""
        self.clock.advance(max(0.0, now - self.clock.now()))

    def step(self) -> Iterator[tuple[int, SequenceOutput]]:
        """Run a step, and report what happened by the number of the rank."""
        waited = [rank.num_waiting for rank in self.ranks]
        plans = [rank.begin() for rank in self.ranks]
        loads = [_NOTHING if plan is None else plan.load for plan in plans]
        if any(plans):
            pairs = zip(waited, self.ranks, strict=True)
            started = max(0, *(before - rank.num_waiting for before, rank in pairs))
            begins = self.clock.now() + self._start * started
            self._time.end = self.pipeline.end(begins, loads)
        for number, (rank, plan) in enumerate(zip(self.ranks, plans, strict=True)):
            news = rank.news() if plan is None else rank.finish(plan)
            for item in news:
                yield number, item
