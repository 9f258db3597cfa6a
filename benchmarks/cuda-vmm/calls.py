"""What each call of the driver costs, by size of chunk and length of run."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from statistics import quantiles
from typing import Any

from ellm.core.units import GIB, MIB
from ellm.memory.drivers.cuda_calls import call

SIZES = (2 * MIB, 4 * MIB, 8 * MIB, 32 * MIB)
RUNS = (1, 8, 64, 512)
# Of each call, as far as this many bytes go.
MOST_CALLS, MOST_BYTES = 400, 6 * GIB
REPEATS = 12


class Device:
    """The driver's calls on chunks of one size, without any books of ours."""

    def __init__(self, cuda: Any, size: int) -> None:
        self.cuda, self.size = cuda, size
        where = cuda.CUmemLocationType.CU_MEM_LOCATION_TYPE_DEVICE
        self._kind = cuda.CUmemAllocationProp()
        self._kind.type = cuda.CUmemAllocationType.CU_MEM_ALLOCATION_TYPE_PINNED
        self._kind.location.type, self._kind.location.id = where, 0
        self._access = cuda.CUmemAccessDesc()
        self._access.location.type, self._access.location.id = where, 0
        self._access.flags = cuda.CUmemAccess_flags.CU_MEM_ACCESS_FLAGS_PROT_READWRITE

    def reserve(self, slots: int) -> int:
        return int(call(self.cuda, self.cuda.cuMemAddressReserve, slots * self.size, 0, 0, 0))

    def free(self, address: int, slots: int) -> None:
        call(self.cuda, self.cuda.cuMemAddressFree, address, slots * self.size)

    def create(self) -> Any:
        return call(self.cuda, self.cuda.cuMemCreate, self.size, self._kind, 0)

    def map(self, address: int, handle: Any) -> None:
        call(self.cuda, self.cuda.cuMemMap, address, self.size, 0, handle, 0)

    def map_all(self, address: int, handles: Sequence[Any]) -> None:
        for index, handle in enumerate(handles):
            self.map(address + index * self.size, handle)

    def access(self, address: int, slots: int) -> None:
        call(self.cuda, self.cuda.cuMemSetAccess, address, slots * self.size, [self._access], 1)

    def unmap(self, address: int, slots: int) -> None:
        call(self.cuda, self.cuda.cuMemUnmap, address, slots * self.size)

    def release(self, handle: Any) -> None:
        call(self.cuda, self.cuda.cuMemRelease, handle)

    def place(self, address: int, handles: Sequence[Any]) -> None:
        """Map all side by side, and give access once."""
        self.map_all(address, handles)
        self.access(address, len(handles))


def timed(work: Callable[..., Any], *arguments: Any) -> tuple[float, Any]:
    """Microseconds, and what `work` returned."""
    start = time.perf_counter()
    found = work(*arguments)
    return (time.perf_counter() - start) * 1e6, found


def spread(times: Sequence[float]) -> dict[str, float]:
    """Microseconds."""
    cuts = quantiles(times, n=100, method="inclusive")
    return {"p50_us": round(cuts[49], 2), "p99_us": round(cuts[98], 2), "calls": len(times)}


def single_calls(cuda: Any) -> Iterator[dict[str, Any]]:
    """Each call for one chunk at a time."""
    for size in SIZES:
        device = Device(cuda, size)
        count = min(MOST_CALLS, MOST_BYTES // size)
        reserve, base = timed(device.reserve, count)
        times: dict[str, list[float]] = {name: [] for name in ("create", "map", "access", "unmap")}
        handles = []
        for _ in range(count):
            taken, handle = timed(device.create)
            times["create"].append(taken)
            handles.append(handle)
        places = [(base + index * size, handle) for index, handle in enumerate(handles)]
        for address, handle in places:
            times["map"].append(timed(device.map, address, handle)[0])
            times["access"].append(timed(device.access, address, 1)[0])
        for address, _ in places:
            times["unmap"].append(timed(device.unmap, address, 1)[0])
        times["release"] = [timed(device.release, handle)[0] for handle in handles]
        device.free(base, count)
        for name, each in times.items():
            yield {"call": name, "chunk": size, **spread(each)}
        yield {"call": "reserve", "chunk": size, "p50_us": round(reserve, 2), "calls": 1}


def runs(cuda: Any) -> Iterator[dict[str, Any]]:
    """Mapping a run: its chunks one by one, and one call for access or unmapping."""
    device = Device(cuda, SIZES[0])
    handles = [device.create() for _ in range(RUNS[-1])]
    for length in RUNS:
        base = device.reserve(length)
        times: dict[str, list[float]] = {"maps": [], "access": [], "unmap": []}
        for _ in range(REPEATS):
            times["maps"].append(timed(device.map_all, base, handles[:length])[0])
            times["access"].append(timed(device.access, base, length)[0])
            times["unmap"].append(timed(device.unmap, base, length)[0])
        device.free(base, length)
        for name, each in times.items():
            yield {"call": f"run {name}", "chunk": device.size, "run": length, **spread(each)}
    for handle in handles:
        device.release(handle)
