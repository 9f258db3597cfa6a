"""Requests on engines in virtual time, to the last token."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum

from ellm.core.errors import RequestError
from ellm.engine.engine import Engine
from ellm.sim.affinity import Affinity
from ellm.sim.arriving import reaching, request_of
from ellm.sim.devices.device import Overhead
from ellm.sim.lane import Lane
from ellm.sim.served import Served
from ellm.sim.timeline import Sample, Timeline, look_at
from ellm.sim.workload.item import Item

Progress = Callable[[float, int], None]
"""Told of the simulated time and of how many requests have ended."""


class Dispatch(Enum):
    """Which engine a request goes to.

    ROUND_ROBIN   each in turn
    LEAST_LOADED  the one with the fewest tokens to do
    PREFIX        the one with the fewest, counting those of the request that it has not served
                  yet: with a cache of prefixes, the one that will have done it first (Mooncake,
                  arXiv 2407.00079, algorithm 1)
    """

    ROUND_ROBIN = "round-robin"
    LEAST_LOADED = "least-loaded"
    PREFIX = "prefix"


@dataclass(slots=True)
class _Seat:
    """An engine, the lane it is in, and the tokens that its requests still have to compute."""

    engine: Engine
    lane: int
    load: int = 0


@dataclass(slots=True)
class Cluster:
    """All lanes of a deployment under one stream of requests.

    `overhead` is what the server around the engines adds before a request is in the queue, to each
    token, and after the last.
    """

    lanes: Sequence[Lane]
    overhead: Overhead
    seed: int = 0
    dispatch: Dispatch = Dispatch.LEAST_LOADED
    timeline: Timeline[Sample] = field(default_factory=Timeline)
    served: list[Served] = field(default_factory=list)
    _seats: list[_Seat] = field(init=False)
    _asked: list[tuple[_Seat, int]] = field(default_factory=list)
    _affinity: Affinity = field(init=False)
    _turn: int = 0
    _ended: int = 0

    def __post_init__(self) -> None:
        self._seats = [
            _Seat(engine, number) for number, lane in enumerate(self.lanes) for engine in lane.ranks
        ]
        self._affinity = Affinity(len(self._seats))

    @property
    def engines(self) -> list[Engine]:
        return [seat.engine for seat in self._seats]

    @property
    def now(self) -> float:
        """The time until which something was done."""
        return max(lane.clock.now() for lane in self.lanes)

    def run(self, items: Iterable[Item], progress: Progress | None = None) -> None:
        """Serve all of them.  `items` are in the order of their arrival, and may be made lazily."""
        coming = reaching(items, self.overhead)
        nearest = next(coming, None)
        busy: list[tuple[float, int]] = []  # when a lane begins its next step
        while nearest is not None or busy:
            if nearest is not None and (not busy or nearest[0] <= busy[0][0]):
                woken = self._arrive(*nearest)
                if woken is not None:
                    heapq.heappush(busy, (self.lanes[woken].clock.now(), woken))
                nearest = next(coming, None)
                continue
            _, number = heapq.heappop(busy)
            self._step(number)
            lane = self.lanes[number]
            if lane.has_work:
                heapq.heappush(busy, (lane.clock.now(), number))
            self.timeline.maybe(lane.clock.now(), self._look)
            if progress is not None:
                progress(lane.clock.now(), self._ended)

    def _arrive(self, now: float, item: Item) -> int | None:
        """Hand a request to an engine; the number of its lane if that was asleep."""
        seat, tokens = self._choose(item)
        number = len(self.served)
        served = Served(item.arrival, item.prompt_tokens, item.model or 0)
        self.served.append(served)
        self._asked.append((seat, tokens))
        lane = self.lanes[seat.lane]
        asleep = not lane.has_work
        if asleep:
            lane.wake(now)
        try:
            seat.engine.submit(request_of(item, number, self.seed, now))
        except RequestError as error:
            served.refused = str(error)
            self._ended += 1
            return None
        seat.load += tokens
        return seat.lane if asleep else None

    def _choose(self, item: Item) -> tuple[_Seat, int]:
        """Where the item goes, and how many tokens there are to do there for it."""
        count, tokens = len(self._seats), item.prompt_tokens + item.output_tokens
        known = [0] * count
        if self.dispatch is Dispatch.PREFIX:
            known = self._affinity.known(item)
        order = [(self._turn + i) % count for i in range(count)]
        chosen = order[0]
        if self.dispatch is not Dispatch.ROUND_ROBIN:
            chosen = min(order, key=lambda place: self._seats[place].load - known[place])
        if self.dispatch is Dispatch.PREFIX:
            self._affinity.serve(item, chosen)
        self._turn += 1
        return self._seats[chosen], tokens - known[chosen]

    def _step(self, number: int) -> None:
        lane = self.lanes[number]
        before = lane.clock.now()
        moved = False
        after = self.overhead.output_token + self.overhead.completion
        for _, news in lane.step():
            moved = True
            place = int(news.request_id)
            served = self.served[place]
            if news.token is not None:
                served.token(lane.clock.now() + self.overhead.output_token)
            if news.finish_reason is not None:
                seat, tokens = self._asked[place]
                seat.load -= tokens
                served.cached = news.cached_tokens
                served.ended = lane.clock.now() + after
                self._ended += 1
        stuck = not moved and lane.clock.now() == before and lane.has_work
        assert not stuck, f"lane {number} has work at {before} s and does none"

    def _look(self, now: float) -> Sample:
        pipelines = {id(lane.pipeline) for lane in self.lanes}
        return look_at(self.engines, len(self.lanes) // len(pipelines), now)
