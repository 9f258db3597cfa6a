"""How fast bytes go to the tier below and come back."""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import median

import torch

from ellm.core.units import MIB
from ellm.memory.extents import HostAccess, Region
from ellm.memory.store import Place
from ellm.memory.stores.file import FileStore

# As much as some hundred tokens of a large model, or a whole context of a small one.
SIZE = 64 * MIB
REPEATS = 3


@dataclass(frozen=True, slots=True)
class CopyTimes:
    """Bytes a second, written (`down`) and read back (`up`)."""

    down: float
    up: float


def measure_copies(directory: str | None) -> CopyTimes:
    """Of a file in `directory`, as llm/tier.py opens it; the middle of a few times.

    Raises ConfigError where no such file can be made.
    """
    access = HostAccess()
    memory = access.allocate(SIZE)
    memory.view[:] = bytes(range(256)) * (SIZE // 256)
    store = FileStore(SIZE, access, directory)
    try:
        place = Place(array("I", range(store.pieces)), store.piece_bytes)
        region = Region(access, [(memory.address, SIZE)])
        down = median(_rate(lambda: store.write(place, 0, region)) for _ in range(REPEATS))
        up = median(_rate(lambda: store.read(place, 0, region)) for _ in range(REPEATS))
    finally:
        store.close()
        access.free(memory)
        access.close()
    return CopyTimes(down, up)


def _rate(steps: Callable[[], Iterator[int]]) -> float:
    start = time.perf_counter()
    done = sum(steps())
    return done / (time.perf_counter() - start)


def link_bandwidth(device: str) -> float:
    """Bytes a second between pinned host memory and a device, the slower way."""
    host = torch.empty(SIZE, dtype=torch.uint8, pin_memory=True)
    there = torch.empty(SIZE, dtype=torch.uint8, device=device)

    def seconds(target: torch.Tensor, source: torch.Tensor) -> float:
        start = time.perf_counter()
        target.copy_(source)
        torch.cuda.synchronize(device)
        return time.perf_counter() - start

    ways = ((there, host), (host, there))
    return SIZE / max(median(seconds(*way) for _ in range(REPEATS)) for way in ways)
