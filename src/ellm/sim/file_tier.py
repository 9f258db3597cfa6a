"""A file below host memory, in accounts."""

from __future__ import annotations

from dataclasses import dataclass

from ellm.core.units import KIB
from ellm.memory.driver import Driver
from ellm.memory.extents import DriverAccess
from ellm.memory.stores.void import VoidStore
from ellm.memory.tiers import Tiers
from ellm.memory.timed_copier import TimedCopier
from ellm.memory.transfer import Direction
from ellm.sim.clock import VirtualClock

# memory/stores/file.py: bytes of a piece, and how fast a file is taken to be before it was used.
PIECE_BYTES = 256 * KIB
BELIEVED = 1e9


@dataclass(frozen=True, slots=True)
class FileTier:
    """Bytes a second, written (`down`) and read back (`up`)."""

    down: float
    up: float

    def open(self, size: int, driver: Driver, clock: VirtualClock) -> Tiers:
        """One of at most `size` bytes."""
        store = VoidStore(size, BELIEVED, PIECE_BYTES)
        rates = {Direction.DOWN: self.down, Direction.UP: self.up}
        return Tiers(store, DriverAccess(driver), TimedCopier(clock, clock.advance, rates))
