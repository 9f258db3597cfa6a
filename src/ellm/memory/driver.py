"""The calls every kind of memory must answer.

A driver hands out two things and joins them: address *spans*, which cost nothing, and *chunks*,
which are real memory.

    reserve() -> Span ──┐
                        ├─ map(span, slot, chunks) ... unmap(span, slot, count)
    create() -> chunks ─┘

A slot is one chunk wide; a chunk is a small number.  Reading an unmapped slot is a fault, by
design.  One chunk may be mapped at several slots.  Every call either does all it was asked or
raises DriverError and leaves everything as it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NewType, Protocol

Chunk = NewType("Chunk", int)


@dataclass(frozen=True, slots=True)
class Span:
    """An address range of `slots` slots that never moves.  Freed only as a whole."""

    address: int
    slots: int


class Driver(Protocol):
    """Physical chunks and address spans of one kind of memory."""

    @property
    def chunk_bytes(self) -> int: ...

    def reserve(self, slots: int) -> Span:
        """Address room for `slots` chunks; takes no memory."""
        ...

    def create(self, count: int) -> list[Chunk]:
        """`count` chunks of real memory, in adjacent runs where possible, contents undefined."""
        ...

    def map(self, span: Span, slot: int, chunks: Sequence[Chunk]) -> None:
        """Put `chunks` behind consecutive slots from `slot`, which must all be unmapped.

        Runs of adjacent chunks cost one kernel operation each.
        """
        ...

    def enlarge_pages(self, span: Span, slot: int, count: int) -> None:
        """Use larger pages for `count` mapped slots, if the machine has any, at some cost now.

        For what stays mapped and is read often.  A hint, which may do nothing; any thread.
        """
        ...

    def unmap(self, span: Span, slot: int, count: int) -> None:
        """Take the chunks away from `count` mapped slots; the chunks and their bytes live on."""
        ...

    def destroy(self, chunks: Sequence[Chunk]) -> None:
        """Give chunks, mapped nowhere, back to the machine."""
        ...

    def release(self, span: Span) -> None:
        """Give back a span in which nothing is mapped."""
        ...

    def copy(self, target: int, source: int, count: int) -> None:
        """Copy bytes between two mapped addresses that do not overlap."""
        ...

    def copy_in(self, target: int, data: bytes) -> None:
        """Write bytes at a mapped address."""
        ...

    def copy_out(self, source: int, count: int) -> bytes:
        """Read bytes from a mapped address."""
        ...

    def physical_bytes(self) -> int:
        """Real memory behind the live chunks, as the machine itself counts it."""
        ...

    def close(self) -> None:
        """Unmap, destroy and release everything.  Twice is harmless."""
        ...
