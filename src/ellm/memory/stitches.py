"""Address ranges over chunks that live elsewhere, kept for the next allocation of their size.

    home     ├ used ┼─ free a ─┼ used ┼── free b ──┼ used ┤
                       │  └────────┐     │  │
    stitch             └─────────┐ └──┐  │  │          the same chunks, mapped a second time;
                                 ├─ a ┼─ b ─┤          nothing was unmapped at home

A stitch begins anywhere in its first chunk and is whole chunks from there on.  It may be used
whenever the bytes behind it are free at home, from its beginning and as far as they are.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from ellm.core.errors import DriverError
from ellm.core.units import ceil_div
from ellm.memory.blocks import HomeRange
from ellm.memory.driver import Chunk, Span
from ellm.memory.fences import Fences
from ellm.memory.fragments import Piece


@dataclass(eq=False, slots=True)
class Stitch:
    """A span over the home bytes `pieces`, in order; the last ends with its chunk.

    `stream` and `epoch` say what may still touch it since it was last used.
    """

    number: int
    span: Span
    pieces: tuple[Piece, ...]
    chunk_bytes: int
    stream: int | None = None
    epoch: int = -1

    @property
    def address(self) -> int:
        return self.span.address + self.pieces[0][0] % self.chunk_bytes

    @property
    def capacity(self) -> int:
        return sum(stop - start for start, stop in self.pieces)

    def slots(self) -> set[int]:
        """Home slots of its chunks."""
        size = self.chunk_bytes
        return {
            slot
            for start, stop in self.pieces
            for slot in range(start // size, ceil_div(stop, size))
        }

    def prefix(self, size: int) -> list[Piece]:
        """The home bytes behind its first `size` bytes."""
        found = []
        for start, stop in self.pieces:
            found.append((start, min(stop, start + size)))
            size -= stop - start
            if size <= 0:
                return found
        raise AssertionError((size, self))


class Stitches:
    """All stitches of a home range; those not in use are kept while `limit` slots suffice."""

    def __init__(self, home: HomeRange, fences: Fences, limit: int) -> None:
        self._home = home
        self._fences = fences
        self._limit = limit
        self._driver = home.pool.driver
        self._numbers = 0
        self._used: set[Stitch] = set()
        # Least recently used first.
        self._idle: OrderedDict[int, Stitch] = OrderedDict()
        self._sizes: list[tuple[int, int]] = []
        # Unmapped already, when the machine refused to release them.
        self._bare: list[Span] = []
        self.slots = 0
        self.made = 0
        self.unmade = 0

    @property
    def idle(self) -> int:
        return len(self._idle)

    def find(self, size: int, stream: int | None, most: int) -> Stitch | None:
        """An idle stitch whose first `size` bytes `stream` may use; the smallest, up to `most`."""
        for capacity, number in self._sizes[bisect_left(self._sizes, (size, -1)) :]:
            if capacity > most:
                return None
            stitch = self._idle[number]
            if all(self._home.is_free(*piece, stream) for piece in stitch.prefix(size)):
                return stitch
        return None

    def use(self, stitch: Stitch) -> None:
        del self._idle[stitch.number]
        del self._sizes[bisect_left(self._sizes, (stitch.capacity, stitch.number))]
        self._used.add(stitch)

    def rest(self, stitch: Stitch, stream: int | None, epoch: int) -> None:
        """Not in use any more, as soon as `stream` has passed `epoch`."""
        self._used.remove(stitch)
        stitch.stream, stitch.epoch = stream, epoch
        self._idle[stitch.number] = stitch
        insort(self._sizes, (stitch.capacity, stitch.number))

    def make(self, pieces: Sequence[Piece]) -> Stitch:
        """A new stitch over the home bytes `pieces`, in use.

        Idle ones go first if `limit` demands it, or the machine has no more mappings.  Raises
        DriverError, and makes nothing, if it has none even then.
        """
        size = self._home.chunk_bytes
        # To the end of its last chunk: the next user may be a little larger.
        last = (pieces[-1][0], ceil_div(pieces[-1][1], size) * size)
        whole = (*pieces[:-1], last)
        count = sum(ceil_div(stop, size) - start // size for start, stop in whole)
        while self.slots + count > self._limit and self.unmake_oldest(wait=False):
            pass
        span = self._driver.reserve(count)
        stitch = Stitch(self._numbers, span, whole, size)
        chunks = [
            self._home.chunk(slot)
            for start, stop in whole
            for slot in range(start // size, ceil_div(stop, size))
        ]
        try:
            self._map(span, chunks)
        except DriverError:
            self._release(span)
            raise
        self._numbers += 1
        self.slots += count
        self.made += 1
        self._used.add(stitch)
        return stitch

    def unmake_oldest(self, wait: bool) -> bool:
        """Unmap the least recently used idle stitch that nothing touches; whether there was one.

        With `wait`, after waiting for the oldest if need be.  Raises DriverError, and changes
        nothing, if the machine cannot unmap it.
        """
        for stitch in self._idle.values():
            if self._fences.passed(stitch.stream, stitch.epoch):
                self.unmake(stitch)
                return True
        if wait and self._idle:
            stitch = next(iter(self._idle.values()))
            self._fences.wait(stitch.stream, stitch.epoch)
            self.unmake(stitch)
            return True
        return False

    def unmake(self, stitch: Stitch) -> None:
        """Unmap an idle stitch that nothing touches; on DriverError it is kept."""
        self._driver.unmap(stitch.span, 0, stitch.span.slots)
        del self._idle[stitch.number]
        del self._sizes[bisect_left(self._sizes, (stitch.capacity, stitch.number))]
        self.slots -= stitch.span.slots
        self.unmade += 1
        self._release(stitch.span)

    def over(self, slots: set[int]) -> tuple[list[Stitch], set[int]]:
        """Idle stitches over any of these home slots, and which slots are under used ones."""
        idle = [stitch for stitch in self._idle.values() if stitch.slots() & slots]
        return idle, {slot for stitch in self._used for slot in stitch.slots() & slots}

    def close(self) -> None:
        """Unmap them all; none may be in use."""
        assert not self._used, self._used
        while self.unmake_oldest(wait=True):
            pass
        while self._bare:
            self._driver.release(self._bare[-1])
            self._bare.pop()

    def check(self, used: set[Stitch]) -> None:
        """The books balance, and exactly `used` are in use."""
        assert self._used == used, (self._used, used)
        assert self._used.isdisjoint(self._idle.values())
        assert self._sizes == sorted((s.capacity, n) for n, s in self._idle.items())
        assert self.made - self.unmade == len(self._used) + len(self._idle)
        everyone = [*self._used, *self._idle.values()]
        assert self.slots == sum(stitch.span.slots for stitch in everyone)
        for stitch in everyone:
            assert len(stitch.slots()) == stitch.span.slots, stitch
            assert all(self._home.chunk(slot) is not None for slot in stitch.slots()), stitch

    def _map(self, span: Span, chunks: Sequence[Chunk]) -> None:
        while True:
            try:
                self._driver.map(span, 0, chunks)
                return
            except DriverError:
                if not self.unmake_oldest(wait=True):
                    raise

    def _release(self, span: Span) -> None:
        try:
            self._driver.release(span)
        except DriverError:
            self._bare.append(span)
