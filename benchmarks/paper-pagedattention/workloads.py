"""Lengths and rates of the paper's figure 12."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ellm.sim.workload.arrivals import arrivals, timed
from ellm.sim.workload.item import Item
from ellm.sim.workload.lengths import ALPACA, SHAREGPT, LogNormal, drawn


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """Requests come for so many `seconds`, at each of a contender's `rates` a second.

    Equally long, not equally many: what is too much queues up in proportion to the time, so that
    latency crosses a limit at the same share above what each can serve.  The last rate is more
    than that, so that memory is full.
    """

    lengths: tuple[LogNormal, LogNormal]
    seconds: float
    rates: Mapping[str, Sequence[float]]


_SHAREGPT, _ALPACA = (1.5, 2.5, 3.0, 3.5), (40, 65, 78, 90)
WORKLOADS = {
    "sharegpt": Workload(
        lengths=SHAREGPT,
        seconds=600,
        rates={
            "orca-max": (0.5, 0.65, 0.75, 0.85, 1.0),
            "orca-pow2": (0.7, 0.9, 1.0, 1.1, 1.3),
            "orca-oracle": (1.0, 1.25, 1.4, 1.55, 1.8),
            "paged": _SHAREGPT,
            "contiguous": _SHAREGPT,
            "ellm": _SHAREGPT,
        },
    ),
    "alpaca": Workload(
        lengths=ALPACA,
        seconds=100,
        rates={
            "orca-max": (3.5, 4.5, 5, 5.5, 6.5),
            "orca-pow2": (16, 21, 24, 27, 31),
            "orca-oracle": (25, 36, 42, 47, 53),
            "paged": _ALPACA,
            "contiguous": _ALPACA,
            "ellm": _ALPACA,
        },
    ),
}


def items(workload: Workload, seconds: float, rate: float, seed: int) -> list[Item]:
    """Requests at random times, `rate` a second for about so many seconds."""
    count = round(rate * seconds)
    return timed(drawn(count, *workload.lengths, seed=seed), arrivals(count, rate, seed))
