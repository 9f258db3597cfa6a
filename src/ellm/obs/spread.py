"""How times spread: their mean, and what most of them stay below."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which `share` (0 to 1) of `values` lie, interpolated linearly; 0 if none."""
    if not values:
        return 0.0
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


@dataclass(frozen=True, slots=True)
class Spread:
    """Mean, median, 90th, 95th and 99th percentile, in milliseconds."""

    mean: float
    median: float
    p90: float
    p95: float
    p99: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Spread:
        """Of any number of times; all figures are 0 where there are none."""
        mean = sum(seconds) / len(seconds) if seconds else 0.0
        ranks = [percentile(seconds, share) for share in (0.5, 0.9, 0.95, 0.99)]
        return cls(*(1e3 * value for value in (mean, *ranks)))
