"""The best that a plan could do, without simulating it.

Nothing here is estimated: steps take what the plan's stages say (costs/stage.py), and the trace
makes at least the work that `demand` counts.  What a step costs is bounded from below by prices of
its tokens, sequences, pairs and cached tokens, so that work has a least time whatever the schedule;
requests are bounded one by one by what they take alone.  With whatever else there is to do, with
waiting and recomputing, a simulation only takes longer.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import accumulate

from ellm.core.load import StepLoad
from ellm.core.objectives import Objectives
from ellm.core.units import ceil_div
from ellm.obs.spread import percentile
from ellm.planner.curve import Curve, prices, total
from ellm.planner.demand import Ask, Demand, Work
from ellm.planner.figures import Figures
from ellm.planner.need import Need
from ellm.sim.costs.stage import StageTime
from ellm.sim.deployment import Deployment

# What rounding may add up to over a simulation, as a share.
_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class Seats:
    """What a step of all ranks of a lane has at most: sequences, and tokens of KV (infinite where
    there is more than the pool)."""

    sequences: int
    kv_tokens: float


class StageFloor:
    """The least seconds that a stage takes for any work, over any number of steps."""

    def __init__(self, stage: StageTime, seats: Seats, work: Work) -> None:
        self._stage = stage
        parts, ranks = stage.parts, stage.ranks
        # Of several copies the slowest counts, which takes no less than they do on average.
        curve = total(
            Curve.of(cost) if copies == 1 else Curve.of(cost).hull().stretched(copies)
            for copies, cost in parts.items()
        )
        shares = {copies: 1 / min(copies, ranks) for copies in parts}
        self._pair = sum(shares[c] * cost.attention for c, cost in parts.items())
        self._cached = sum(shares[c] * cost.kv_token for c, cost in parts.items())
        self._sequence = sum(shares[c] * cost.sequence for c, cost in parts.items())
        # Many steps are needed since only so many sequences fit in one, or only so much KV.
        self._seated = prices(
            curve,
            lambda tokens: min(tokens, seats.sequences),
            work.tokens,
            work.sequences,
            seats.sequences,
        )
        self._roomed = (0.0, 0.0)
        if math.isfinite(seats.kv_tokens) and work.private > 0:
            room = seats.kv_tokens
            self._roomed = prices(curve, lambda tokens: room, work.tokens, work.private, 1.0)

    def seconds(self, remaining: Callable[[int | None], Work]) -> float:
        """`remaining` is the work, given the window of attention that counts."""
        work = remaining(None)
        seated, roomed = self._seated, self._roomed
        steps = max(
            seated[0] * work.tokens + seated[1] * work.sequences,
            roomed[0] * work.tokens + roomed[1] * work.private,
        )
        steps += self._pair * work.pairs + self._cached * work.kv_tokens
        steps += self._sequence * work.sequences
        for window in self._stage.windows:
            seen = remaining(window.tokens)
            steps += (window.pair * seen.pairs + window.cached * seen.kv_tokens) / self._stage.ranks
        return steps * (1 - _ROUNDING)


class AloneFloor:
    """The least seconds that a request takes with the whole plan to itself."""

    def __init__(self, deployment: Deployment, stages: Sequence[tuple[StageTime, int]]) -> None:
        self._overhead = deployment.device.overhead
        self.completion = self._overhead.completion
        parts = [(c, s.ranks, p.times(n)) for s, n in stages for c, p in s.parts.items()]
        # One rank's tokens reach one copy, or an equal part each of several.
        self._curve = total(
            Curve.of(cost).stretched(max(1, copies // ranks)) for copies, ranks, cost in parts
        )
        corners = self._curve.corners()
        self._places = [place for place, _ in corners]
        self._cheapest = list(accumulate((s / place for place, s in corners), min))
        self._pair = sum(cost.attention for _, _, cost in parts)
        self._cached = sum(cost.kv_token for _, _, cost in parts)
        self._sequence = sum(cost.sequence for _, _, cost in parts)
        self._windows = [(w, count) for stage, count in stages for w in stage.windows]

    def ttft(self, ask: Ask) -> float:
        """To the first token.  A prompt in several chunks is not cheaper a token than the cheapest
        chunk of no more tokens is."""
        tokens = ask.prompt - ask.common
        place = bisect_right(self._places, tokens) - 1
        at_once = self._curve.at(tokens) / tokens
        seconds = tokens * min(self._cheapest[place], at_once)
        prompt = Ask(ask.arrival, ask.prompt, 1, known=ask.common).work
        work = prompt(None)
        seconds += self._pair * work.pairs + self._cached * ask.prompt + self._sequence
        for window, count in self._windows:
            seen = prompt(window.tokens)
            seconds += count * (window.pair * seen.pairs + window.cached * seen.kv_tokens)
        over = self._overhead
        waited = over.request + over.prompt_token * ask.prompt + over.output_token
        return (seconds + waited) * (1 - _ROUNDING)

    def tpot(self, ask: Ask) -> float | None:
        """Between tokens on average; None for a single token."""
        if ask.output < 2:
            return None
        # Linear in the length, or, with windows, a bow that is above its chord.
        first, last = self._decode(ask.prompt + 1), self._decode(ask.length)
        return (first + last) / 2 * (1 - _ROUNDING)

    def _decode(self, length: int) -> float:
        seconds = self._curve.at(1) + (self._pair + self._cached) * length + self._sequence
        load = StepLoad(1, length, length, 1)
        return seconds + sum(count * window.seconds(load) for window, count in self._windows)


class Outlook:
    """What a deployment's stages promise for a demand, whatever the number of replicas."""

    def __init__(
        self, deployment: Deployment, seats: Seats, demand: Demand, slo: Objectives
    ) -> None:
        self._deployment = deployment
        self._demand = demand
        self._stages = distinct(deployment.stages)
        self._floors = [
            (StageFloor(stage, seats, demand.total), count) for stage, count in self._stages
        ]
        alone = AloneFloor(deployment, self._stages)
        ttfts = [alone.ttft(ask) for ask in demand.asks]
        paces = [alone.tpot(ask) for ask in demand.asks]
        latencies = [
            ttft + (ask.output - 1) * (pace or 0.0) + alone.completion
            for ask, ttft, pace in zip(demand.asks, ttfts, paces, strict=True)
        ]
        tpots = [pace for pace in paces if pace is not None]
        self.ttft, self.tpot = percentile(ttfts, 0.95), percentile(tpots, 0.95)
        self.e2el = sum(latencies) / max(1, len(latencies))
        self.fastest = (min(ttfts, default=0.0), min(tpots, default=0.0))
        self.good = sum(
            slo.allow_ttft(ttft) and slo.allow_tpot(pace)
            for ttft, pace in zip(ttfts, paces, strict=True)
        )
        self._judged = slo.stated
        ends = zip(demand.asks, latencies, strict=True)
        # Nobody's first token comes sooner than it would alone.
        begins = (ask.arrival - demand.began + t for ask, t in zip(demand.asks, ttfts, strict=True))
        self._begun = max(begins, default=0.0)
        self._last = max((ask.arrival - demand.began + time for ask, time in ends), default=0.0)

    @cached_property
    def _busiest(self) -> list[tuple[float, float]]:
        """When a part of the trace begins, and what its slowest stage needs for it."""
        return [
            (start, max(floor.seconds(later) for floor, _ in self._floors))
            for start, later in self._parts()
        ]

    @cached_property
    def _busy(self) -> float:
        """Seconds that all stages compute."""
        whole = next(later for _, later in self._parts())
        return sum(count * floor.seconds(whole) for floor, count in self._floors)

    def _parts(self) -> Iterator[tuple[float, Callable[[int | None], Work]]]:
        for number, (start, _) in enumerate(self._demand.remaining(None)):
            yield start, partial(self._later, number)

    def _later(self, number: int, window: int | None) -> Work:
        """Of that part of the trace and all that come after it."""
        return self._demand.remaining(window)[number][1]

    def duration(self, replicas: int) -> float:
        """From the first arrival to the last answer."""
        return max([self._last, *(start + time / replicas for start, time in self._busiest)])

    def figures(self, replicas: int, requests: int) -> Figures:
        """At their best: rates are upper bounds, times and energy lower ones.  `requests` counts
        those that are refused too."""
        device, plan = self._deployment.device, self._deployment.plan
        devices = replicas * plan.stages * plan.width
        duration = self.duration(replicas)
        output = sum(ask.output for ask in self._demand.asks)
        watts = device.busy_watts - device.idle_watts
        joules = devices * duration * device.idle_watts + self._busy * plan.width * watts
        return Figures(
            devices=devices,
            output_rate=output / duration if duration else math.inf,
            good_rate=self._rate() if self._judged else None,
            met=self.good / max(1, requests) if self._judged else None,
            ttft=self.ttft,
            tpot=self.tpot,
            e2el=self.e2el,
            joules=joules / output if output else math.inf,
        )

    def _rate(self) -> float:
        return self.good / self._begun if self._begun else 0.0


def seats_of(deployment: Deployment, need: Need) -> Seats:
    """Of one lane: what its engines are allowed, and what their memory holds."""
    plan = deployment.plan
    ranks = plan.ranks(deployment.transformer)
    sequences = ranks * ceil_div(deployment.limits.max_num_seqs, plan.stages)
    if deployment.memory.offload_bytes or not need.token:
        return Seats(sequences, math.inf)
    return Seats(sequences, ranks * need.room / plan.stages / need.token)


def distinct(stages: Sequence[StageTime]) -> list[tuple[StageTime, int]]:
    """Stages that take different times, and how many there are of each."""
    found: dict[object, StageTime] = {}
    counts: Counter[object] = Counter()
    for stage in stages:
        parts = tuple((copies, cost.values) for copies, cost in stage.parts.items())
        key = (parts, stage.windows)
        found.setdefault(key, stage)
        counts[key] += 1
    return [(stage, counts[key]) for key, stage in found.items()]
