"""When requests come: drawn at a rate, or a trace's own times made faster or more even."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from ellm.sim.workload.item import Item


def arrivals(count: int, rate: float, seed: int, burstiness: float = 1.0) -> Iterator[float]:
    """Seconds at which `count` requests arrive, `rate` a second on average.

    Gaps follow a gamma distribution of shape `burstiness`: 1 is a Poisson process, below 1
    clusters, above 1 evens out (vLLM's `--burstiness`).  An infinite rate sends all at once.
    """
    rng = random.Random(seed)
    now = 0.0
    for _ in range(count):
        yield now
        if math.isfinite(rate):
            now += rng.gammavariate(burstiness, 1.0 / (rate * burstiness))


def timed(items: Sequence[Item], times: Iterable[float]) -> list[Item]:
    """The same requests at other times."""
    return [replace(item, arrival=time) for item, time in zip(items, times, strict=True)]


def hastened(items: Sequence[Item], factor: float) -> list[Item]:
    """The same requests, `factor` times as many a second."""
    return [replace(item, arrival=item.arrival / factor) for item in items]


def evened(items: Sequence[Item]) -> list[Item]:
    """Requests in order of arrival, those with one time stamp spread until the next one.

        stamps   0 0 0       3 3         6            Mooncake's are 3 s apart, with all that
        times    0 1 2       3   4.5     6            came meanwhile on one of them

    The last stamp's are spread as far as those before it, a single stamp's not at all.
    """
    times = [item.arrival for item in items]
    counts = Counter(times)
    stamps = sorted(counts)
    if len(stamps) < 2:
        return list(items)
    ends = dict(zip(stamps, [*stamps[1:], 2 * stamps[-1] - stamps[-2]], strict=True))
    seen: Counter[float] = Counter()
    even = []
    for time in times:
        even.append(time + (ends[time] - time) * seen[time] / counts[time])
        seen[time] += 1
    return timed(items, even)
