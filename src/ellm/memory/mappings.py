"""Which chunk is behind which slot: the part of a driver that is the same for every memory.

A driver asks here whether a call is allowed, does its work, then enters the result.  The `require`
methods change nothing and raise DriverError for what the contract forbids.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Sequence

from ellm.core.errors import DriverError
from ellm.memory.driver import Chunk, Span


class Mappings:
    """The live chunks, the reserved spans, and what is mapped where."""

    def __init__(self, chunk_bytes: int) -> None:
        self.chunk_bytes = chunk_bytes
        self._slots: dict[int, dict[int, Chunk]] = {}
        self._spans: dict[int, Span] = {}
        self._addresses: list[int] = []
        self._uses: dict[Chunk, int] = {}

    @property
    def created(self) -> int:
        """Live chunks."""
        return len(self._uses)

    @property
    def spans(self) -> list[Span]:
        return list(self._spans.values())

    def chunks(self) -> list[Chunk]:
        """Every live chunk."""
        return list(self._uses)

    def slots(self, span: Span) -> dict[int, Chunk]:
        """What is mapped in `span`: the table itself, not to be changed by the caller."""
        return self._slots[span.address]

    def reserved(self, span: Span) -> None:
        self._spans[span.address] = span
        self._slots[span.address] = {}
        insort(self._addresses, span.address)

    def require_empty(self, span: Span) -> None:
        slots = self._table(span)
        if slots:
            raise DriverError(f"span at {span.address:#x} still has {len(slots)} chunks mapped")

    def released(self, span: Span) -> None:
        del self._slots[span.address], self._spans[span.address]
        self._addresses.remove(span.address)

    def create(self, chunks: Sequence[Chunk]) -> None:
        self._uses.update(dict.fromkeys(chunks, 0))

    def require_idle(self, chunks: Sequence[Chunk]) -> None:
        """Every chunk lives, is named once, and is mapped nowhere."""
        for chunk in chunks:
            uses = self._uses.get(chunk)
            if uses is None:
                raise DriverError(f"chunk {chunk} does not exist")
            if uses:
                raise DriverError(f"chunk {chunk} is still mapped at {uses} slots")
        if len(set(chunks)) != len(chunks):
            raise DriverError("a chunk is named twice")

    def destroyed(self, chunks: Sequence[Chunk]) -> None:
        for chunk in chunks:
            del self._uses[chunk]

    def require_free(self, span: Span, slot: int, chunks: Sequence[Chunk]) -> None:
        """The slots exist and are unmapped, and every chunk lives."""
        slots = self._table(span, slot, len(chunks))
        for at, chunk in enumerate(chunks, slot):
            if at in slots:
                raise DriverError(f"slot {at} of span {span.address:#x} is mapped already")
            if chunk not in self._uses:
                raise DriverError(f"chunk {chunk} does not exist")

    def mapped(self, span: Span, slot: int, chunks: Sequence[Chunk]) -> None:
        slots = self._slots[span.address]
        for at, chunk in enumerate(chunks, slot):
            slots[at] = chunk
            self._uses[chunk] += 1

    def require_mapped(self, span: Span, slot: int, count: int) -> None:
        slots = self._table(span, slot, count)
        for at in range(slot, slot + count):
            if at not in slots:
                raise DriverError(f"slot {at} of span {span.address:#x} is not mapped")

    def unmapped(self, span: Span, slot: int, count: int) -> None:
        slots = self._slots[span.address]
        for at in range(slot, slot + count):
            self._uses[slots.pop(at)] -= 1

    def resolve(self, address: int, count: int) -> list[tuple[Chunk, int, int]]:
        """The pieces (chunk, offset in it, bytes) behind `count` bytes from `address`.

        Raises DriverError unless all of them are mapped.
        """
        if count < 0:
            raise DriverError(f"cannot copy {count} bytes")
        index = bisect_right(self._addresses, address) - 1
        base = self._addresses[index] if index >= 0 else address
        span = self._spans.get(base)
        if span is None or address + count > base + span.slots * self.chunk_bytes:
            raise DriverError(f"{count} bytes at {address:#x} lie in no reserved span")
        slots, pieces = self._slots[base], []
        while count:
            slot, offset = divmod(address - base, self.chunk_bytes)
            if slot not in slots:
                raise DriverError(f"slot {slot} of span {base:#x} is not mapped")
            size = min(count, self.chunk_bytes - offset)
            pieces.append((slots[slot], offset, size))
            address += size
            count -= size
        return pieces

    def clear(self) -> None:
        self._slots.clear()
        self._spans.clear()
        self._addresses.clear()
        self._uses.clear()

    def _table(self, span: Span, slot: int = 0, count: int = 0) -> dict[int, Chunk]:
        if self._spans.get(span.address) != span:
            raise DriverError(f"no span of {span.slots} slots at {span.address:#x} is reserved")
        if slot < 0 or count < 0 or slot + count > span.slots:
            raise DriverError(f"slots {slot} to {slot + count} are outside a span of {span.slots}")
        return self._slots[span.address]
