"""Memory that is not there: accounts and made-up addresses, for simulation and tests.

Every promise of the contract is kept, contents included, but a chunk costs no bytes until some
are copied into it.  What was never written reads as zeros.
"""

from __future__ import annotations

from collections.abc import Sequence

from ellm.core.errors import DriverError
from ellm.core.units import format_bytes
from ellm.memory.driver import Chunk, Span
from ellm.memory.mappings import Mappings
from ellm.memory.runs import RunSet

_FIRST_ADDRESS = 1 << 40


class NullDriver:
    """At most `budget` bytes of chunks, `chunk_bytes` each."""

    def __init__(self, budget: int, chunk_bytes: int) -> None:
        self._mappings = Mappings(chunk_bytes)
        self._unborn = RunSet(0, budget // chunk_bytes)
        self._contents: dict[Chunk, bytearray] = {}
        self._next_address = _FIRST_ADDRESS
        self._open = True

    @property
    def chunk_bytes(self) -> int:
        return self._mappings.chunk_bytes

    def reserve(self, slots: int) -> Span:
        self._require_open()
        if slots < 1:
            raise DriverError(f"cannot reserve {slots} slots")
        span = Span(self._next_address, slots)
        # One slot of distance: running past the end of a span is an error, not its neighbour.
        self._next_address += (slots + 1) * self.chunk_bytes
        self._mappings.reserved(span)
        return span

    def create(self, count: int) -> list[Chunk]:
        self._require_open()
        if not 0 <= count <= len(self._unborn):
            raise DriverError(
                f"cannot create {count} chunks: {len(self._unborn)} of "
                f"{format_bytes(self.chunk_bytes)} are left in the budget"
            )
        chunks = [Chunk(number) for number in self._unborn.take(count)]
        self._mappings.create(chunks)
        return chunks

    def map(self, span: Span, slot: int, chunks: Sequence[Chunk]) -> None:
        self._mappings.require_free(span, slot, chunks)
        self._mappings.mapped(span, slot, chunks)

    def enlarge_pages(self, span: Span, slot: int, count: int) -> None:
        pass

    def unmap(self, span: Span, slot: int, count: int) -> None:
        self._mappings.require_mapped(span, slot, count)
        self._mappings.unmapped(span, slot, count)

    def destroy(self, chunks: Sequence[Chunk]) -> None:
        self._mappings.require_idle(chunks)
        self._mappings.destroyed(chunks)
        for chunk in chunks:
            self._contents.pop(chunk, None)
        self._unborn.add(chunks)

    def release(self, span: Span) -> None:
        self._mappings.require_empty(span)
        self._mappings.released(span)

    def copy(self, target: int, source: int, count: int) -> None:
        pieces = self._mappings.resolve(source, count)
        self._mappings.resolve(target, count)
        for chunk, offset, size in pieces:
            if chunk in self._contents:
                self._write(target, self._contents[chunk][offset : offset + size])
            else:
                self._blank(target, size)
            target += size

    def copy_in(self, target: int, data: bytes) -> None:
        self._write(target, data)

    def copy_out(self, source: int, count: int) -> bytes:
        out = bytearray()
        for chunk, offset, size in self._mappings.resolve(source, count):
            held = self._contents.get(chunk)
            out += bytes(size) if held is None else held[offset : offset + size]
        return bytes(out)

    def physical_bytes(self) -> int:
        return self._mappings.created * self.chunk_bytes

    def close(self) -> None:
        self._open = False
        self._mappings.clear()
        self._contents.clear()
        self._unborn = RunSet()

    def _write(self, target: int, data: bytes | bytearray) -> None:
        done = 0
        for chunk, offset, size in self._mappings.resolve(target, len(data)):
            if chunk not in self._contents:
                self._contents[chunk] = bytearray(self.chunk_bytes)
            self._contents[chunk][offset : offset + size] = data[done : done + size]
            done += size

    def _blank(self, target: int, count: int) -> None:
        for chunk, offset, size in self._mappings.resolve(target, count):
            if chunk in self._contents:
                self._contents[chunk][offset : offset + size] = bytes(size)

    def _require_open(self) -> None:
        if not self._open:
            raise DriverError("the driver is closed")
