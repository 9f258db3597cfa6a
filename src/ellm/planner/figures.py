"""What a plan is judged by, and which plans no other beats."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

from ellm.sim.report import Report

T = TypeVar("T")
_MILLI = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """Simulated, or the best that there could be.

    devices      how many the plan takes
    output_rate  tokens per second, from the first arrival to the last answer
    good_rate    requests per second that met the objectives, from the first arrival to the first
                 token of the last answer: how long that answer is says nothing of what the plan can
                 take; None without objectives
    met          their share of all requests (0 to 1)
    ttft, tpot   95th percentiles, seconds
    e2el         mean time from arrival to the whole answer, seconds
    joules       for each output token
    """

    devices: int
    output_rate: float
    good_rate: float | None
    met: float | None
    ttft: float
    tpot: float
    e2el: float
    joules: float

    @classmethod
    def of(cls, report: Report) -> Figures:
        good = report.goodput
        return cls(
            devices=report.devices,
            output_rate=report.output_rate,
            good_rate=None if good is None else _rate(good.met * report.requests, report.begun),
            met=None if good is None else good.met,
            ttft=_MILLI * report.ttft.p95,
            tpot=_MILLI * report.tpot.p95,
            e2el=_MILLI * report.e2el.mean,
            joules=report.joules / report.output_tokens if report.output_tokens else math.inf,
        )

    @property
    def axes(self) -> tuple[float, ...]:
        """What a front is drawn in; less is better."""
        rate = self.output_rate if self.good_rate is None else self.good_rate
        return (1 / rate if rate else math.inf, self.ttft, self.tpot, self.devices, self.joules)

    def covers(self, other: Figures, slack: float = 0.0) -> bool:
        """Whether it is nowhere worse than `other` by more than `slack` (a share)."""
        pairs = zip(self.axes, other.axes, strict=True)
        return all(mine <= theirs * (1 + slack) for mine, theirs in pairs)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def _rate(count: float, seconds: float) -> float:
    return count / seconds if seconds else 0.0


def front(items: Iterable[T], of: Callable[[T], Figures], slack: float = 0.0) -> list[T]:
    """Those that no other beats (Pareto), in their order.

    With `slack` those that an earlier one equals within so large a share are left out too.
    """
    kept: list[T] = []
    for item in items:
        mine = of(item)
        if any(of(one).covers(mine, slack) for one in kept):
            continue
        kept = [one for one in kept if not mine.covers(of(one))]
        kept.append(item)
    return kept


def unbeaten(candidate: Figures, known: Sequence[Figures]) -> bool:
    """Whether none of `known` is at least as good as `candidate` in every way."""
    return not any(one.covers(candidate) for one in known)
