"""The seconds of a step by its tokens, and prices of a token that no step undercuts.

A step takes F(t) seconds for t tokens, of which at most d(t) are single tokens of sequences that
decode.  Two prices λ and μ with

    F(t) ≥ λ t + μ d(t)    for every t ≥ 1

bound any number of steps from below: with T tokens, D of them decoded, they take at least
λ T + μ D.  The best such prices are the dual of a linear programme, and any prices that keep the
inequality are good; F is a chain of straight lines, so it is enough to look at its corners.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import pairwise

from ellm.scheduling.coefficients import KNOTS, Coefficients

# Each round leaves two thirds of an interval: all leave a hundred-thousandth.
_THIRDS = 28


@dataclass(frozen=True, slots=True)
class Curve:
    """Straight lines through `seconds` at `places`, which begin at 0; `slope` beyond the last."""

    places: tuple[float, ...]
    seconds: tuple[float, ...]
    slope: float

    @classmethod
    def of(cls, cost: Coefficients) -> Curve:
        """What a step with so many tokens takes, whatever else it has."""
        seconds = [cost.step]
        for slope, (left, right) in zip(cost.slopes, pairwise(KNOTS), strict=False):
            seconds.append(seconds[-1] + slope * (right - left))
        return cls(tuple(map(float, KNOTS)), tuple(seconds), cost.slopes[-1])

    def at(self, tokens: float) -> float:
        right = bisect_right(self.places, tokens)
        if right == len(self.places):
            return self.seconds[-1] + self.slope * (tokens - self.places[-1])
        left = right - 1
        span = self.places[right] - self.places[left]
        part = (tokens - self.places[left]) / span
        return self.seconds[left] + part * (self.seconds[right] - self.seconds[left])

    def stretched(self, factor: float) -> Curve:
        """Of `factor` times as many tokens, each of which has its part of the work."""
        return Curve(
            tuple(factor * place for place in self.places), self.seconds, self.slope / factor
        )

    def hull(self) -> Curve:
        """The largest convex function below it: what several copies take on average when tokens
        are spread over them in any way is no less than this of the average (Jensen)."""
        kept: list[tuple[float, float]] = []
        for point in zip(self.places, self.seconds, strict=True):
            while len(kept) > 1 and _slope(kept[-2], kept[-1]) >= _slope(kept[-1], point):
                kept.pop()
            kept.append(point)
        while len(kept) > 1 and _slope(kept[-2], kept[-1]) >= self.slope:
            kept.pop()
        places, seconds = zip(*kept, strict=True)
        return Curve(places, seconds, self.slope)

    def corners(self, more: Iterable[float] = ()) -> list[tuple[float, float]]:
        """Tokens and seconds at 1, and wherever the line bends or `more` says."""
        places = sorted({1.0, *more, *self.places})
        return [(place, self.at(place)) for place in places if place >= 1]


def _slope(left: tuple[float, float], right: tuple[float, float]) -> float:
    return (right[1] - left[1]) / (right[0] - left[0])


def total(curves: Iterable[Curve]) -> Curve:
    """What they take together."""
    found = list(curves)
    places = tuple(sorted({place for curve in found for place in curve.places}))
    seconds = tuple(sum(curve.at(place) for curve in found) for place in places)
    return Curve(places, seconds, sum(curve.slope for curve in found))


def prices(
    curve: Curve, most: Callable[[float], float], tokens: float, others: float, bend: float
) -> tuple[float, float]:
    """Seconds for each token, and for each of the others of which a step of t tokens has at most
    `most(t)`: those that make `tokens` and `others` dearest.

    `most` is a straight line but for a bend at `bend`.
    """
    corners = [(place, seconds, most(place)) for place, seconds in curve.corners([bend])]
    dearest = min(curve.slope, min(seconds / place for place, seconds, _ in corners))

    def other(token: float) -> float:
        return max(0.0, min((s - token * place) / count for place, s, count in corners))

    def worth(token: float) -> float:
        return token * tokens + other(token) * others

    low, high = 0.0, dearest
    for _ in range(_THIRDS):
        left, right = low + (high - low) / 3, high - (high - low) / 3
        if worth(left) < worth(right):
            low = left
        else:
            high = right
    token = max((0.0, low, dearest), key=worth)
    return token, other(token)
