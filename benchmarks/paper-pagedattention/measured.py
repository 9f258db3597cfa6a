"""What a simulation is asked beside its latencies: who shares steps, and what memory holds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import fmean

from contenders import SLOTS
from reserving import ReservingEngine

from ellm.engine.engine import Engine
from ellm.sim.served import Served
from ellm.sim.timeline import Sample, Timeline

# Steps from one look to the next.
EVERY = 8


@dataclass(frozen=True, slots=True)
class Moment:
    """Requests that run, and shares (0 to 1) of the memory for KV.

    `tokens` hold a token; `later` is reserved for tokens that will come, `never` for tokens that
    will not, as far as that was asked for.  The rest is free, or lost to where blocks may lie.
    """

    running: int
    tokens: float
    later: float
    never: float


@dataclass(slots=True)
class Watch(Timeline[Sample]):
    """Looks at `engine` from `start` to `end`."""

    engine: Engine | None = None
    start: float = 0.0
    end: float = 0.0
    moments: list[Moment] = field(default_factory=list)
    _steps: int = 0

    def maybe(self, now: float, look: Callable[[float], Sample]) -> None:
        self._steps += 1
        if self.start <= now <= self.end and self._steps % EVERY == 0:
            assert self.engine is not None
            self.moments.append(moment(self.engine))

    def mean(self, name: str) -> float:
        """Over all steps that were looked at, as the paper has it."""
        return fmean(getattr(each, name) for each in self.moments)


def moment(engine: Engine) -> Moment:
    seen = engine.snapshot()
    tokens = seen.kv_usage * (1 - seen.kv_waste)
    if not isinstance(engine, ReservingEngine):
        return Moment(seen.running, tokens, 0.0, 0.0)
    made = engine.reserving.store.reservations
    final, asked = sum(each.final for each in made), sum(each.asked for each in made)
    return Moment(seen.running, tokens, final / SLOTS - tokens, (asked - final) / SLOTS)


def normalized_latency(served: Sequence[Served]) -> float:
    """Seconds from arrival to end over tokens of the answer, on average."""
    return fmean(each.latency / each.output for each in served)


def sustained(points: Sequence[tuple[float, float]], limit: float) -> float | None:
    """The rate at which the latency of (rate, latency) crosses `limit`, on a straight line between
    the points beside it; None if it does not."""
    ordered = sorted(points)
    for (low, fast), (high, slow) in pairwise(ordered):
        if fast <= limit < slow:
            return low + (high - low) * (limit - fast) / (slow - fast)
    return None
