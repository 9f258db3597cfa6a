"""An address range that never moves, with chunks behind as much of it as is in use."""

from __future__ import annotations

from collections.abc import Sequence

from ellm.core.errors import DriverError
from ellm.core.units import ceil_div
from ellm.memory.driver import Chunk, Span
from ellm.memory.pool import ChunkPool
from ellm.memory.runs import adjacent_runs


class VirtualTensor:
    """`slots` slots of a span from slot `first` (None: the rest of it), and the chunks behind.

        span    ·····│ first                               first + slots │·····
        bytes        0         start          stop                capacity
        chunks       ███████████████░░░░░░░░░░░████████░░░░░░░░░░░░░░░░░░
                                   cover │ punch

    Chunks are `owner`'s.  Byte positions count from `address`; the window starts out empty.
    """

    def __init__(
        self, pool: ChunkPool, owner: str, span: Span, first: int = 0, slots: int | None = None
    ) -> None:
        slots = span.slots - first if slots is None else slots
        assert 0 <= first < first + slots <= span.slots, (first, slots, span)
        self.pool = pool
        self.owner = owner
        self.span = span
        self.first = first
        self.slots = slots
        self._chunks: dict[int, Chunk] = {}
        # Slots below this one are all mapped: growing a long tensor does not walk it.
        self._solid = 0

    @property
    def address(self) -> int:
        """Address of the window's first byte."""
        return self.span.address + self.first * self.pool.chunk_bytes

    @property
    def capacity(self) -> int:
        """Bytes the window has room for."""
        return self.slots * self.pool.chunk_bytes

    @property
    def mapped(self) -> int:
        """Chunks behind the window now, shared ones included."""
        return len(self._chunks)

    def missing(self, start: int, stop: int) -> int:
        """Chunks that bytes [start, stop) still lack."""
        return len(self._holes(start, stop))

    def cover(self, start: int, stop: int) -> bool:
        """Put chunks behind all of bytes [start, stop); False, and no change, if not now.

        Raises DriverError, and changes nothing, if the machine cannot map them.
        """
        holes = self._holes(start, stop)
        if not holes:
            return True
        chunks = self.pool.take(self.owner, len(holes))
        if chunks is None:
            return False
        used = 0
        for low, high in adjacent_runs(holes):
            try:
                self._map(low, chunks[used : used + high - low])
            except DriverError:
                self.pool.drop(self.owner, chunks[used:])
                self._give_back([slot for slot in holes if slot < low])
                raise
            used += high - low
        while self._solid in self._chunks:
            self._solid += 1
        return True

    def grow(self, size: int) -> bool:
        """Cover the first `size` bytes."""
        return self.cover(0, size)

    def shrink(self, size: int) -> int:
        """Give back every chunk wholly beyond `size` bytes; how many became free.

        A chunk that another range shares is given up but not freed.
        """
        return self.punch(size, self.capacity)

    def punch(self, start: int, stop: int) -> int:
        """Give back every chunk wholly inside bytes [start, stop); how many became free."""
        assert 0 <= start <= stop <= self.capacity, (start, stop, self.capacity)
        size = self.pool.chunk_bytes
        low, high = ceil_div(start, size), stop // size
        if high - low < len(self._chunks):
            slots = [slot for slot in range(low, high) if slot in self._chunks]
        else:
            slots = sorted(slot for slot in self._chunks if low <= slot < high)
        before = self.pool.free
        self._give_back(slots)
        return self.pool.free - before

    def share(self, source: VirtualTensor, count: int) -> None:
        """Put the first `count` chunks of `source` behind my first `count` slots too.

        Mine must be unmapped, and both of one owner, who is charged once.  Raises DriverError,
        and changes nothing, if the machine cannot map them.
        """
        assert self.owner == source.owner, (self.owner, source.owner)
        chunks = [source._chunks[slot] for slot in range(count)]
        self._map(0, chunks)
        self.pool.retain(chunks)
        while self._solid in self._chunks:
            self._solid += 1

    def is_shared(self, slot: int) -> bool:
        """Whether another range holds the chunk behind `slot`, which is mapped."""
        return self.pool.holders(self._chunks[slot]) > 1

    @property
    def shared(self) -> bool:
        """Whether another range holds some chunk of this one."""
        return any(self.pool.holders(chunk) > 1 for chunk in self._chunks.values())

    def clear(self) -> None:
        """Give every chunk back."""
        self.shrink(0)

    def check(self) -> None:
        """Every chunk behind the window is one that the pool has given to its owner."""
        assert all(0 <= slot < self.slots for slot in self._chunks), self._chunks
        assert len(set(self._chunks.values())) == len(self._chunks), self._chunks
        assert all(self.pool.holders(chunk) for chunk in self._chunks.values()), self._chunks
        assert all(slot in self._chunks for slot in range(self._solid)), self._solid

    def _holes(self, start: int, stop: int) -> list[int]:
        assert 0 <= start <= stop <= self.capacity, (start, stop, self.capacity)
        size = self.pool.chunk_bytes
        first = max(start // size, self._solid)
        last = ceil_div(stop, size) if start < stop else first
        return [slot for slot in range(first, last) if slot not in self._chunks]

    def _map(self, slot: int, chunks: Sequence[Chunk]) -> None:
        unmaps, driver, at = self.pool.unmaps, self.pool.driver, self.first + slot
        unmaps.settle(self.span, at, len(chunks))
        try:
            driver.map(self.span, at, chunks)
        except DriverError:
            # What waits to be unmapped counts against the machine's limit on mappings.
            if not unmaps.flush():
                raise
            driver.map(self.span, at, chunks)
        self._chunks.update(enumerate(chunks, slot))

    def _give_back(self, slots: Sequence[int]) -> None:
        for low, high in adjacent_runs(slots):
            self.pool.unmaps.add(self.span, self.first + low, high - low)
            self._solid = min(self._solid, low)
            self.pool.drop(self.owner, [self._chunks.pop(slot) for slot in range(low, high)])
