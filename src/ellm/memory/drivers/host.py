"""Host memory: one anonymous file holds the chunks, and mappings of it are the slots.

    file   0        chunk          2·chunk        ...             budget
           ├─ hole ─┼─ allocated ──┼─ allocated ──┼─ hole ─ ... ──┤
                          ↑ mmap MAP_FIXED | MAP_SHARED at the same place in the file
    span   ├ PROT_NONE ───┼──────── chunks ───────┼─ PROT_NONE ───┤

A chunk is its place in the file.  Creating it allocates its pages, destroying it punches a hole,
and no slot is ever mapped over a hole, so a bus error cannot happen.  Unmapping lays PROT_NONE
over the slots, never a gap that another thread's mmap could take.

Spans begin at a multiple of a large page, and many chunks that are made together do so in the file:
then the kernel can be asked to collapse what lies behind them into large pages.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from contextlib import suppress

from ellm.core.errors import ConfigError, DriverError, DriverUnavailable
from ellm.core.units import MIB, format_bytes, round_up
from ellm.memory.driver import Chunk, Span
from ellm.memory.drivers import linux
from ellm.memory.drivers.linux import Linux
from ellm.memory.mappings import Mappings
from ellm.memory.runs import RunSet, adjacent_runs

_RESERVED = linux.MAP_PRIVATE | linux.MAP_ANONYMOUS | linux.MAP_NORESERVE
# Of a page table's middle level, with small pages of 4 KiB.
_LARGE_PAGE = 2 * MIB
_PUNCH = linux.FALLOC_PUNCH_HOLE | linux.FALLOC_KEEP_SIZE


class HostDriver:
    """At most `budget` bytes of host memory in chunks of `chunk_bytes`, a multiple of the page.

    `map_limit` is how many kernel mappings the spans may need; None takes what the kernel allows,
    less what the process has now, less an eighth for everything else it may still load.

    Only the process that made it may change anything: in a forked child every call but `close`
    raises DriverError, and `close` lets go of the child's view alone.
    """

    def __init__(
        self,
        budget: int,
        chunk_bytes: int,
        *,
        map_limit: int | None = None,
        system: Linux | None = None,
    ) -> None:
        page = os.sysconf("SC_PAGE_SIZE")
        if chunk_bytes < page or chunk_bytes % page:
            raise ConfigError(f"chunk size must be a multiple of the page, {page}: {chunk_bytes}")
        if not hasattr(os, "memfd_create"):
            raise DriverUnavailable("the host driver needs Linux (memfd_create)")
        self._system = Linux() if system is None else system
        self._mappings = Mappings(chunk_bytes)
        self._unborn = RunSet(0, budget // chunk_bytes)
        self._pid = os.getpid()
        self._kernel_limit = self._system.max_mappings()
        if map_limit is None:
            map_limit = self._kernel_limit * 7 // 8 - self._system.mappings()
        self._map_limit = map_limit
        self._kernel_mappings = 0
        self._file = _make_file(max(1, len(self._unborn)) * chunk_bytes)

    @property
    def chunk_bytes(self) -> int:
        return self._mappings.chunk_bytes

    @property
    def kernel_mappings(self) -> int:
        """Mappings the kernel keeps for the spans now."""
        return self._kernel_mappings

    def reserve(self, slots: int) -> Span:
        self._require_ours()
        if slots < 1:
            raise DriverError(f"cannot reserve {slots} slots")
        self._require_mappings(1)
        try:
            address = self._reserve(slots * self.chunk_bytes)
        except OSError as error:
            size = format_bytes(slots * self.chunk_bytes)
            raise DriverError(f"cannot reserve {size} of addresses: {error}") from error
        span = Span(address, slots)
        self._mappings.reserved(span)
        self._kernel_mappings += 1
        return span

    def create(self, count: int) -> list[Chunk]:
        self._require_ours()
        if not 0 <= count <= len(self._unborn):
            raise DriverError(
                f"cannot create {count} chunks: {len(self._unborn)} of "
                f"{format_bytes(self.chunk_bytes)} are left in the budget"
            )
        large = _LARGE_PAGE // self.chunk_bytes
        numbers = self._unborn.take(count, large if count >= large else 1)
        runs = list(adjacent_runs(numbers))
        for index, (start, stop) in enumerate(runs):
            try:
                self._allocate(0, start, stop)
            except OSError as error:
                for done in runs[: index + 1]:
                    self._allocate(_PUNCH, *done)
                self._unborn.add(numbers)
                size = format_bytes(count * self.chunk_bytes)
                raise DriverError(
                    f"the machine refused {size} of memory: {error}; lower --memory"
                ) from error
        chunks = [Chunk(number) for number in numbers]
        self._mappings.create(chunks)
        return chunks

    def map(self, span: Span, slot: int, chunks: Sequence[Chunk]) -> None:
        self._require_ours()
        self._mappings.require_free(span, slot, chunks)
        runs = list(adjacent_runs(chunks))
        before = self._edges(span, slot, len(chunks))
        self._mappings.mapped(span, slot, chunks)
        more = len(runs) - 1 + self._edges(span, slot, len(chunks)) - before if runs else 0
        try:
            self._require_mappings(more)
            self._lay(span, slot, runs)
        except (OSError, DriverError) as error:
            # All of it: a fixed mmap that fails may have taken the old mapping away already.
            self._bar(span, slot, len(chunks))
            self._mappings.unmapped(span, slot, len(chunks))
            raise self._refused(error) from error
        self._kernel_mappings += more

    def enlarge_pages(self, span: Span, slot: int, count: int) -> None:
        self._require_ours()
        # Whatever the kernel says: without large pages the memory is the same.
        with suppress(OSError):
            address = span.address + slot * self.chunk_bytes
            self._system.madvise(address, count * self.chunk_bytes, linux.MADV_COLLAPSE)

    def unmap(self, span: Span, slot: int, count: int) -> None:
        self._require_ours()
        self._mappings.require_mapped(span, slot, count)
        slots = self._mappings.slots(span)
        runs = list(adjacent_runs(slots[at] for at in range(slot, slot + count)))
        before = self._edges(span, slot, count)
        try:
            self._bar(span, slot, count)
        except OSError as error:
            self._lay(span, slot, runs)
            raise self._refused(error) from error
        self._mappings.unmapped(span, slot, count)
        if runs:
            self._kernel_mappings += self._edges(span, slot, count) - before - (len(runs) - 1)

    def destroy(self, chunks: Sequence[Chunk]) -> None:
        self._require_ours()
        self._mappings.require_idle(chunks)
        runs = list(adjacent_runs(sorted(chunks)))
        for index, (start, stop) in enumerate(runs):
            try:
                self._allocate(_PUNCH, start, stop)
            except OSError as error:
                for done in runs[:index]:
                    self._allocate(0, *done)
                raise self._refused(error) from error
        self._mappings.destroyed(chunks)
        self._unborn.add(chunks)

    def release(self, span: Span) -> None:
        self._require_ours()
        self._mappings.require_empty(span)
        try:
            self._system.munmap(span.address, span.slots * self.chunk_bytes)
        except OSError as error:
            raise self._refused(error) from error
        self._mappings.released(span)
        self._kernel_mappings -= 1

    def copy(self, target: int, source: int, count: int) -> None:
        self._mappings.resolve(source, count)
        self._mappings.resolve(target, count)
        ctypes.memmove(target, source, count)

    def copy_in(self, target: int, data: bytes) -> None:
        self._mappings.resolve(target, len(data))
        ctypes.memmove(target, data, len(data))

    def copy_out(self, source: int, count: int) -> bytes:
        self._mappings.resolve(source, count)
        return ctypes.string_at(source, count)

    def physical_bytes(self) -> int:
        return os.fstat(self._file).st_blocks * 512 if self._file >= 0 else 0

    def close(self) -> None:
        if self._file < 0:
            return
        for span in self._mappings.spans:
            self._system.munmap(span.address, span.slots * self.chunk_bytes)
        self._mappings.clear()
        self._kernel_mappings = 0
        os.close(self._file)
        self._file = -1

    def _reserve(self, size: int) -> int:
        """Addresses without access, from a multiple of a large page."""
        whole = size + _LARGE_PAGE
        begin = self._system.mmap(None, whole, linux.PROT_NONE, _RESERVED)
        address = round_up(begin, _LARGE_PAGE)
        try:
            if address > begin:
                self._system.munmap(begin, address - begin)
            self._system.munmap(address + size, begin + whole - address - size)
        except OSError:
            self._system.munmap(begin, whole)
            raise
        return address

    def _allocate(self, mode: int, start: int, stop: int) -> None:
        size = self.chunk_bytes
        self._system.fallocate(self._file, mode, start * size, (stop - start) * size)

    def _lay(self, span: Span, slot: int, runs: Sequence[tuple[int, int]]) -> None:
        """Runs of chunks over the slots from `slot`, one kernel mapping each.

        Their page tables are filled at once: a fifth of what the faults would cost one by one.
        """
        size = self.chunk_bytes
        for start, stop in runs:
            self._system.mmap(
                span.address + slot * size,
                (stop - start) * size,
                linux.PROT_READ_WRITE,
                linux.MAP_SHARED | linux.MAP_FIXED | linux.MAP_POPULATE,
                self._file,
                start * size,
            )
            slot += stop - start

    def _bar(self, span: Span, slot: int, count: int) -> None:
        """No access to `count` slots, which stay reserved."""
        if count:
            self._system.mmap(
                span.address + slot * self.chunk_bytes,
                count * self.chunk_bytes,
                linux.PROT_NONE,
                _RESERVED | linux.MAP_FIXED,
            )

    def _edges(self, span: Span, slot: int, count: int) -> int:
        """At how many ends of the slots the kernel must keep two mappings apart.

        It joins neighbours that are both unmapped, or follow each other in the file.
        """
        slots, edges = self._mappings.slots(span), 0
        for at in {slot, slot + count} - {0, span.slots}:
            left, right = slots.get(at - 1), slots.get(at)
            if left is None or right is None:
                edges += left is not right
            else:
                edges += right != left + 1
        return edges

    def _require_ours(self) -> None:
        if self._file < 0:
            raise DriverError("the driver is closed")
        if os.getpid() != self._pid:
            raise DriverError(
                f"this memory belongs to process {self._pid}, not to its fork {os.getpid()}: "
                "make another driver there"
            )

    def _require_mappings(self, more: int) -> None:
        if self._kernel_mappings + more > self._map_limit:
            raise DriverError(
                f"{self._kernel_mappings + more} kernel mappings needed, {self._map_limit} "
                f"allowed (vm.max_map_count is {self._kernel_limit}): use larger chunks, or "
                f"raise it with: sysctl -w vm.max_map_count={4 * self._kernel_limit}"
            )

    def _refused(self, error: Exception) -> DriverError:
        if isinstance(error, DriverError):
            return error
        return DriverError(f"{error} (with {self._kernel_mappings} kernel mappings in use)")


def _make_file(size: int) -> int:
    """An anonymous file of `size` bytes, all of them holes.

    Sized once, for good: a file that is never cut cannot lose a page that is mapped.
    """
    try:
        file = os.memfd_create("ellm-chunks", os.MFD_CLOEXEC)
    except OSError as error:
        raise DriverError(f"cannot make a memory file: {error}") from error
    try:
        os.ftruncate(file, size)
    except (OSError, OverflowError) as error:
        os.close(file)
        raise DriverError(
            f"the machine cannot address {format_bytes(size)} of memory ({error}): lower --memory"
        ) from error
    return file
