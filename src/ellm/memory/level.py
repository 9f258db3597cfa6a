"""One store below the pool: which pieces are free, who lies in it, how fast it has been."""

from __future__ import annotations

from array import array
from collections import OrderedDict
from typing import Generic, TypeVar

from ellm.core.units import MIB, ceil_div
from ellm.memory.runs import RunSet
from ellm.memory.store import Place, Store

_PRIOR_BYTES = 64 * MIB
_DECAY = 0.9

Tenant = TypeVar("Tenant")
StoreT = TypeVar("StoreT", bound=Store, covariant=True)


class Meter:
    """Bytes a second, of what was copied lately.

    Bytes and seconds are each summed with what went before fading, so that a short copy, whose
    time is mostly latency, weighs little.  The prior counts as 64 MiB.
    """

    def __init__(self, prior: float) -> None:
        self._bytes = float(_PRIOR_BYTES)
        self._seconds = _PRIOR_BYTES / prior

    def add(self, size: int, seconds: float) -> None:
        self._bytes = self._bytes * _DECAY + size
        self._seconds = self._seconds * _DECAY + seconds

    @property
    def rate(self) -> float:
        return self._bytes / self._seconds


class Level(Generic[StoreT, Tenant]):
    """The accounts of one store.  Tenants are kept in the order of their last use."""

    def __init__(self, store: StoreT) -> None:
        self.store = store
        self.writes = Meter(store.bandwidth)
        self.reads = Meter(store.bandwidth)
        self.tenants: OrderedDict[Tenant, None] = OrderedDict()
        self.refusal: str | None = None
        self._free = RunSet(0, store.pieces)

    @property
    def capacity(self) -> int:
        """Bytes, in use or free."""
        return self.store.pieces * self.store.piece_bytes

    @property
    def free(self) -> int:
        return len(self._free) * self.store.piece_bytes

    @property
    def used(self) -> int:
        return self.capacity - self.free

    def allot(self, size: int) -> Place | None:
        """Pieces for `size` bytes; None if not now.

        When it is the machine that has no room, `refusal` tells why.
        """
        count = ceil_div(size, self.store.piece_bytes)
        if count > len(self._free):
            return None
        used = self.store.pieces - len(self._free)
        place = Place(array("I", self._free.take(count)), self.store.piece_bytes)
        self.refusal = self.store.refuses(place, used)
        if self.refusal is not None:
            self.give_back(place)
            return None
        return place

    def give_back(self, place: Place) -> None:
        self._free.add(place.pieces)

    def trim(self) -> None:
        """Give back the room behind free pieces to the machine."""
        self.store.trim(self._free.runs(), self.store.pieces - len(self._free))

    def check(self, places: list[Place]) -> None:
        """Every piece is free or in exactly one of `places`."""
        taken = [piece for place in places for piece in place.pieces]
        free = [piece for start, stop in self._free.runs() for piece in range(start, stop)]
        assert sorted(taken + free) == list(range(self.store.pieces)), (taken, free)
