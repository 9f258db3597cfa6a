"""Runs of mapped bytes, and how code on the host reaches them."""

from __future__ import annotations

import ctypes
import mmap
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Protocol

from ellm.core.errors import DriverError
from ellm.core.units import format_bytes
from ellm.memory.driver import Driver

Extent = tuple[int, int]
"""Address and bytes of mapped memory."""


class HostBuffer:
    """Page-aligned host memory that its owner may read and write: an address and a view of it."""

    def __init__(self, address: int, size: int) -> None:
        self.address = address
        self.size = size
        self.view = memoryview((ctypes.c_char * size).from_address(address)).cast("B")


class Access(Protocol):
    """Copies between mapped extents and host memory.  Any thread may copy.

    A copy has ended when the call returns.
    """

    def read(self, extents: Sequence[Extent], target: int) -> None:
        """Copy the extents, one after the other, to the host address `target`."""
        ...

    def write(self, source: int, extents: Sequence[Extent]) -> None:
        """Copy from the host address `source` into the extents, one after the other."""
        ...

    def allocate(self, size: int) -> HostBuffer:
        """Host memory that copies from and to fastest.  Raises DriverError if there is none."""
        ...

    def free(self, buffer: HostBuffer) -> None: ...

    def close(self) -> None:
        """Free what is left."""
        ...


class PlainMemory:
    """Anonymous pages of this process, given back as soon as they are freed."""

    def __init__(self) -> None:
        self._maps: dict[int, mmap.mmap] = {}

    def allocate(self, size: int) -> HostBuffer:
        try:
            pages = mmap.mmap(-1, size)
        except OSError as error:
            raise DriverError(
                f"the machine refused {format_bytes(size)} of host memory: {error}"
            ) from error
        # The array is gone before `free`, which could not unmap what something still exports.
        address = ctypes.addressof(ctypes.c_char.from_buffer(pages))
        self._maps[address] = pages
        return HostBuffer(address, size)

    def free(self, buffer: HostBuffer) -> None:
        self._maps.pop(buffer.address).close()

    def close(self) -> None:
        for pages in self._maps.values():
            pages.close()
        self._maps.clear()


class HostAccess(PlainMemory):
    """Extents are addresses of this process: the memory of the host driver, or any buffer."""

    def read(self, extents: Sequence[Extent], target: int) -> None:
        for address, count in extents:
            ctypes.memmove(target, address, count)
            target += count

    def write(self, source: int, extents: Sequence[Extent]) -> None:
        for address, count in extents:
            ctypes.memmove(address, source, count)
            source += count


class DriverAccess(PlainMemory):
    """Extents are whatever the driver says: for memory that has no addresses of its own.

    Drivers are not locked: only for a copier that works in the driver's thread.
    """

    def __init__(self, driver: Driver) -> None:
        super().__init__()
        self._driver = driver

    def read(self, extents: Sequence[Extent], target: int) -> None:
        for address, count in extents:
            ctypes.memmove(target, self._driver.copy_out(address, count), count)
            target += count

    def write(self, source: int, extents: Sequence[Extent]) -> None:
        for address, count in extents:
            self._driver.copy_in(address, ctypes.string_at(source, count))
            source += count


class Region:
    """Extents seen as one run of bytes, counted from 0, and the way to reach them."""

    def __init__(self, access: Access, extents: Sequence[Extent]) -> None:
        self.access = access
        self.extents = tuple(extents)
        self._ends = list(accumulate(count for _, count in extents))

    @property
    def size(self) -> int:
        return self._ends[-1] if self._ends else 0

    def read(self, start: int, stop: int, target: int) -> None:
        """Copy bytes [start, stop) to the host address `target`."""
        self.access.read(list(self.slice(start, stop)), target)

    def write(self, start: int, stop: int, source: int) -> None:
        """Copy from the host address `source` over bytes [start, stop)."""
        self.access.write(source, list(self.slice(start, stop)))

    def slice(self, start: int, stop: int) -> Iterator[Extent]:
        """The extents, cut at both ends, that make up bytes [start, stop)."""
        assert 0 <= start <= stop <= self.size, (start, stop, self.size)
        index = bisect_right(self._ends, start)
        while start < stop:
            address, count = self.extents[index]
            end = min(stop, self._ends[index])
            yield address + count - (self._ends[index] - start), end - start
            start = end
            index += 1
