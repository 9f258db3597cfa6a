"""Which model lives on which device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Demand:
    """What a model asks of a device: `size` bytes to be there, and `rate` requests a second."""

    size: int
    rate: float

    @property
    def work(self) -> float:
        """Bytes of weights that its requests have read, to a factor that all share."""
        return self.size * self.rate


def balanced(demands: Sequence[Demand], devices: int, room: int | None = None) -> list[list[int]]:
    """Numbers of the demands on each of `devices`, such that size and work are balanced.

    A demand weighs its share of all size and its share of all work.  The heaviest is placed first,
    each where least weighs yet; with `room` bytes a device only where it still fits, and nowhere
    if it fits none.
    """
    weights = _weights(demands)
    places: list[list[int]] = [[] for _ in range(devices)]
    for number in sorted(range(len(demands)), key=lambda number: -weights[number]):
        fitting = [
            place
            for place in places
            if room is None or sum(demands[n].size for n in [*place, number]) <= room
        ]
        if fitting:
            min(fitting, key=lambda place: sum(weights[n] for n in place)).append(number)
    return [sorted(place) for place in places]


def _weights(demands: Sequence[Demand]) -> list[float]:
    size, work = sum(d.size for d in demands) or 1, sum(d.work for d in demands) or 1.0
    return [d.size / size + d.work / work for d in demands]


def housed(demands: Sequence[Demand], devices: int, room: int) -> list[list[int]]:
    """As `balanced`, for those that can all be there at once.

    While they cannot, the one with the fewest requests a byte stays away.
    """
    staying = sorted(range(len(demands)), key=lambda n: -demands[n].rate / max(1, demands[n].size))
    while True:
        places = balanced([demands[n] for n in staying], devices, room)
        if sum(map(len, places)) == len(staying):
            return [sorted(staying[n] for n in place) for place in places]
        staying.pop()


def crowded(demands: Sequence[Demand], devices: int, room: int) -> list[list[int]]:
    """As `housed`, and those that would stay away are where least weighs, to take turns there."""
    weights = _weights(demands)
    places = housed(demands, devices, room)
    away = set(range(len(demands))).difference(*places)
    for number in sorted(away, key=lambda number: -weights[number]):
        min(places, key=lambda place: sum(weights[n] for n in place)).append(number)
    return [sorted(place) for place in places]
