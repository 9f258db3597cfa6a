"""Pieces of host memory that is taken as it is needed: pinned, below a device."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence

from ellm.core.errors import DriverError
from ellm.core.units import KIB, MIB, ceil_div
from ellm.memory.extents import Access, Extent, HostBuffer, Region
from ellm.memory.store import Place


class HostStore:
    """At most `capacity` bytes, which `access` allocates in slabs of `slab_bytes`.

        piece   0        1        2        3        4 ...
        slab    ├─ 0 ────┴────────┼─ 1 ────┴────────┼─ (not needed yet)

    Memory is not checksummed: it has its own correction, and a sum would be slower than the copy.
    """

    name = "host memory"

    def __init__(
        self,
        capacity: int,
        access: Access,
        *,
        piece_bytes: int = 64 * KIB,
        slab_bytes: int = 64 * MIB,
        bandwidth: float = 10e9,
    ) -> None:
        assert slab_bytes % piece_bytes == 0, (slab_bytes, piece_bytes)
        self.piece_bytes = piece_bytes
        self.pieces = capacity // piece_bytes
        self.bandwidth = bandwidth
        self._access = access
        self._slab_pieces = max(1, min(slab_bytes // piece_bytes, self.pieces))
        self._slabs: dict[int, HostBuffer] = {}
        self._refused: str | None = None
        self._lock = threading.Lock()

    @property
    def backed(self) -> int:
        """Bytes of memory taken now."""
        with self._lock:
            return sum(slab.size for slab in self._slabs.values())

    def refuses(self, place: Place, used: int) -> str | None:
        return None if self._refused is None or self._is_backed(place.pieces) else self._refused

    def write(self, place: Place, offset: int, source: Region) -> Iterator[int]:
        place.require(offset)
        for at in place.windows(offset, offset + source.size, self._is_one_slab):
            address = self._back(place.pieces[at.low]) + at.start - at.begin
            source.read(at.start - offset, at.stop - offset, address)
            place.filled = max(place.filled, at.stop)
            yield at.stop - at.start

    def read(self, place: Place, offset: int, target: Region) -> Iterator[int]:
        stop = offset + target.size
        place.require(stop)
        for at in place.windows(offset, stop, self._is_one_slab):
            address = self._back(place.pieces[at.low]) + at.start - at.begin
            target.write(at.start - offset, at.stop - offset, address)
            yield at.stop - at.start

    def extents(self, place: Place, size: int) -> list[Extent] | None:
        if not self._is_backed(place.pieces[: ceil_div(size, self.piece_bytes)]):
            return None
        return [
            (self._back(place.pieces[at.low]), at.stop - at.start)
            for at in place.windows(0, size, self._is_one_slab)
        ]

    def trim(self, free: Sequence[tuple[int, int]], used: int) -> None:
        width = self._slab_pieces
        with self._lock:
            self._refused = None
            for start, stop in free:
                last = stop // width if stop < self.pieces else ceil_div(stop, width)
                for slab in range(ceil_div(start, width), last):
                    if slab in self._slabs:
                        self._access.free(self._slabs.pop(slab))

    def close(self) -> None:
        for slab in self._slabs.values():
            self._access.free(slab)
        self._slabs.clear()

    def _is_one_slab(self, first: int, last: int) -> bool:
        return first // self._slab_pieces == last // self._slab_pieces

    def _is_backed(self, pieces: Sequence[int]) -> bool:
        return all(piece // self._slab_pieces in self._slabs for piece in pieces)

    def _back(self, piece: int) -> int:
        """The piece's address, with memory behind it.  The last slab may be shorter."""
        slab, index = divmod(piece, self._slab_pieces)
        pieces = min(self._slab_pieces, self.pieces - slab * self._slab_pieces)
        with self._lock:
            if slab not in self._slabs:
                try:
                    self._slabs[slab] = self._access.allocate(pieces * self.piece_bytes)
                except DriverError as error:
                    self._refused = str(error)
                    raise
            return self._slabs[slab].address + index * self.piece_bytes
