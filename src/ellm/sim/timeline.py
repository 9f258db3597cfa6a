"""Who held how much memory, and how many requests ran and waited, over time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from ellm.engine.engine import Engine

Seen = TypeVar("Seen")

# When there are so many samples, every other one is dropped and the distance doubled.
MOST_SAMPLES = 512


@dataclass(frozen=True, slots=True)
class Sample:
    """Bytes of a device, the mean over replicas and ranks, and requests of all, at one moment.

    A device is the fullest of its pipeline stages.  Of `kv`, `used` belongs to running sequences,
    the rest are prefixes kept for others and ranges mapped for the next sequence.  `below` is in
    the tier.
    """

    time: float
    weights: int
    activations: int
    kv: int
    used: int
    free: int
    below: int
    running: int
    waiting: int
    parked: int


@dataclass(slots=True)
class Timeline(Generic[Seen]):
    """Samples at equal distances, few enough for a plot however long a run is."""

    distance: float = 0.05
    samples: list[Seen] = field(default_factory=list)
    _next: float = 0.0

    def maybe(self, now: float, look: Callable[[float], Seen]) -> None:
        """Take a sample if it is time for one."""
        if now < self._next:
            return
        self.samples.append(look(now))
        if len(self.samples) >= MOST_SAMPLES:
            del self.samples[1::2]
            self.distance *= 2
        self._next = now + self.distance


def look_at(engines: Sequence[Engine], lanes: int, now: float) -> Sample:
    """Of engines that each account for a device's part of the memory.

    `lanes` of them share the same devices: the weights are the same there, and the rest adds up.
    """
    weights = activations = kv = used = free = below = running = waiting = parked = 0
    for engine in engines:
        seen = engine.snapshot()
        chunk = seen.memory.chunk_bytes
        weights += seen.owners["weights"] * chunk
        activations += seen.owners["activations"] * chunk
        kv += seen.owners["kv"] * chunk
        used += min(seen.running_bytes, seen.owners["kv"] * chunk)
        free += seen.memory.free * chunk
        below += seen.tier.used if seen.tier else 0
        running += seen.running
        waiting += seen.waiting
        parked += seen.parked
    devices = len(engines) // lanes
    return Sample(
        time=now,
        weights=weights // len(engines),
        activations=activations // devices,
        kv=kv // devices,
        used=used // devices,
        free=free // devices,
        below=below // devices,
        running=running,
        waiting=waiting,
        parked=parked,
    )
