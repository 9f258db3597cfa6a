"""Pieces that keep no bytes: accounts for the simulator."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ellm.core.units import KIB
from ellm.memory.extents import Region
from ellm.memory.store import Place


class VoidStore:
    """`capacity` bytes of room, said to be `bandwidth` bytes a second fast.

    Nothing is copied: what is read back is whatever the target held.
    """

    name = "accounts"

    def __init__(self, capacity: int, bandwidth: float, piece_bytes: int = 64 * KIB) -> None:
        self.piece_bytes = piece_bytes
        self.pieces = capacity // piece_bytes
        self.bandwidth = bandwidth

    def refuses(self, place: Place, used: int) -> str | None:
        return None

    def write(self, place: Place, offset: int, source: Region) -> Iterator[int]:
        place.filled = max(place.filled, offset + source.size)
        yield source.size

    def read(self, place: Place, offset: int, target: Region) -> Iterator[int]:
        yield target.size

    def trim(self, free: Sequence[tuple[int, int]], used: int) -> None:
        pass

    def close(self) -> None:
        pass
