"""What every place below the pool must answer.

A store is `pieces` numbered pieces of `piece_bytes`.  Which of them are in use is its level's
business (memory/level.py); a store moves bytes, backs pieces with real room and gives it back.
"""

from __future__ import annotations

import errno
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from ellm.core.units import ceil_div
from ellm.memory.extents import Extent, Region


class Window(NamedTuple):
    """Adjacent pieces [low, high) of a place, and which of the place's bytes are meant.

    begin      start                      stop        end
    ├──────────┼──────┬─────────────┬─────┼───────────┤
    │ piece low       │             │   piece high-1  │
    """

    low: int
    high: int
    begin: int
    end: int
    start: int
    stop: int


@dataclass(slots=True, eq=False)
class Place:
    """Where a block lies: its pieces in order, of which the first `filled` bytes are written.

    `filled` belongs to the store, which moves it on while it writes.
    """

    pieces: array[int]
    piece_bytes: int
    filled: int = 0

    def require(self, count: int) -> None:
        """Raise OSError unless the first `count` bytes are written."""
        if count > self.filled:
            raise OSError(errno.EBADMSG, f"only {self.filled} bytes of {count} were written")

    def windows(self, start: int, stop: int, join: Callable[[int, int], bool]) -> Iterator[Window]:
        """Bytes [start, stop), cut where pieces are not adjacent or `join(first, next)` is no."""
        size, pieces = self.piece_bytes, self.pieces
        low, last = start // size, ceil_div(stop, size)
        while low < last:
            high = low + 1
            while (
                high < last
                and pieces[high] == pieces[high - 1] + 1
                and join(pieces[low], pieces[high])
            ):
                high += 1
            begin, end = low * size, high * size
            yield Window(low, high, begin, end, max(begin, start), min(end, stop))
            low = high


class Store(Protocol):
    """Pieces somewhere below.  `write` and `read` run in a copier's thread, one of each at once.

    Both are done step by step, yielding the bytes of each step.  They raise OSError or DriverError
    where the machine refuses, and OSError(EBADMSG) for bytes that are not what was written.
    """

    @property
    def name(self) -> str: ...

    @property
    def pieces(self) -> int: ...

    @property
    def piece_bytes(self) -> int: ...

    @property
    def bandwidth(self) -> float:
        """Bytes a second to expect before any were measured."""
        ...

    def refuses(self, place: Place, used: int) -> str | None:
        """Why the machine would not back `place`, with `used` pieces in use beside it; or None."""
        ...

    def write(self, place: Place, offset: int, source: Region) -> Iterator[int]:
        """Copy `source` over the bytes from `offset`, which must not be beyond `place.filled`."""
        ...

    def read(self, place: Place, offset: int, target: Region) -> Iterator[int]:
        """Copy the bytes from `offset` over `target`."""
        ...

    def trim(self, free: Sequence[tuple[int, int]], used: int) -> None:
        """Give back what is behind the free runs of pieces; `used` pieces are not free."""
        ...

    def close(self) -> None: ...


class HostMemoryStore(Store, Protocol):
    """A store whose pieces are host memory, so that a store below it can copy from and to them."""

    def extents(self, place: Place, size: int) -> list[Extent] | None:
        """Where the first `size` bytes lie; None while some have no memory behind them."""
        ...
