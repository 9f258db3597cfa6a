"""The allocators that a trace is played to, behind one face."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from caching_model import CachingModel
from expandable_model import ExpandableModel
from traces import Trace, peak_bytes

from ellm.core.units import MIB
from ellm.memory.driver import Chunk, Span
from ellm.memory.drivers.null import NullDriver
from ellm.memory.pool import ChunkPool
from ellm.memory.stitching import StitchingAllocator

CHUNK_BYTES = 2 * MIB


class Contender(Protocol):
    """`calls` are those that a CUDA driver would get."""

    calls: Counter[str]

    @property
    def peak_reserved(self) -> int: ...

    def allocate(self, size: int) -> int | None: ...

    def free(self, address: int) -> None: ...


class CountingDriver(NullDriver):
    """Counts the calls that the CUDA driver would make for each of its own."""

    def __init__(self, budget: int) -> None:
        super().__init__(budget, CHUNK_BYTES)
        self.calls: Counter[str] = Counter()

    def reserve(self, slots: int) -> Span:
        self.calls["reserve"] += 1
        return super().reserve(slots)

    def create(self, count: int) -> list[Chunk]:
        self.calls["create"] += count
        return super().create(count)

    def map(self, span: Span, slot: int, chunks: Sequence[Chunk]) -> None:
        self.calls["map"] += len(chunks)
        self.calls["access"] += 1
        super().map(span, slot, chunks)

    def unmap(self, span: Span, slot: int, count: int) -> None:
        self.calls["unmap"] += 1
        super().unmap(span, slot, count)

    def release(self, span: Span) -> None:
        self.calls["release"] += 1
        super().release(span)


class Stitching:
    """Ours, over a driver that only keeps accounts."""

    def __init__(self, capacity: int) -> None:
        driver = CountingDriver(capacity)
        self.calls = driver.calls
        self.allocator = StitchingAllocator(ChunkPool(driver, capacity), "training")
        self.allocate = self.allocator.allocate
        self.free = self.allocator.free

    @property
    def peak_reserved(self) -> int:
        return self.allocator.stats.peak_reserved


CONTENDERS: dict[str, type[CachingModel] | type[ExpandableModel] | type[Stitching]] = {
    "caching": CachingModel,
    "expandable": ExpandableModel,
    "stitching": Stitching,
}


@dataclass(frozen=True, slots=True)
class Played:
    """One trace played to one allocator that had memory to spare."""

    peak_reserved: int
    calls: int
    late_calls: int
    microseconds: float


def play(name: str, trace: Trace, capacity: int) -> Played | None:
    """None if the allocator runs out of memory.

    `late_calls` are driver calls in the second half of the trace; microseconds are for one
    allocation and its free.
    """
    contender = CONTENDERS[name](capacity)
    addresses: list[int] = []
    early = 0
    start = time.perf_counter()
    for index, event in enumerate(trace):
        if event > 0:
            address = contender.allocate(event)
            if address is None:
                return None
            addresses.append(address)
        else:
            contender.free(addresses[-event - 1])
        if index == len(trace) // 2:
            early = sum(contender.calls.values())
    seconds = time.perf_counter() - start
    calls = sum(contender.calls.values())
    per_allocation = 1e6 * seconds / max(1, len(addresses))
    return Played(contender.peak_reserved, calls, calls - early, per_allocation)


def smallest_device(name: str, trace: Trace, most: int) -> int:
    """Bytes, in chunks, of the smallest device found on which the trace runs to its end.

    By bisection between what the trace needs at least and `most`, which suffices.
    """
    low, high = peak_bytes(trace) // CHUNK_BYTES, -(-most // CHUNK_BYTES)
    while low + 1 < high:
        middle = (low + high) // 2
        if play(name, trace, middle * CHUNK_BYTES) is None:
            low = middle
        else:
            high = middle
    return high * CHUNK_BYTES
