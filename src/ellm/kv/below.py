"""What sequences have in the tier below: whole ones that are parked, and layers of others."""

from __future__ import annotations

from functools import partial
from typing import Generic

from ellm.core.layers import KvTable
from ellm.core.plan import StepPlan
from ellm.kv.layered import Ferry, LayeredLot
from ellm.kv.parking import ParkingLot, Whereabouts
from ellm.kv.room import Room
from ellm.kv.store import Holding, KvStore
from ellm.memory.balloon import Cost
from ellm.memory.tiers import Tiers


class Below(Generic[Holding]):
    """`lot` has whole sequences; `layers` has layered ones, None where the layout knows none."""

    def __init__(
        self,
        room: Room,
        store: KvStore[Holding],
        tiers: Tiers,
        layers: LayeredLot[Holding] | None,
    ) -> None:
        self._room = room
        self.tiers = tiers
        self.lot = ParkingLot(store, tiers)
        self.layers = layers

    def begin(self) -> None:
        """A step is about to be planned: look what has ended since."""
        self.lot.settle()
        if self.layers is not None:
            self.layers.disembark()

    def where(self, seq_id: int) -> Whereabouts | None:
        """None for a sequence that has nothing here."""
        if self.layers is not None and seq_id in self.layers:
            return self.layers.where(seq_id)
        return self.lot.where(seq_id)

    def is_layered(self, seq_id: int) -> bool:
        return self.layers is not None and seq_id in self.layers

    def seconds(self, size: int, shed: int = 0) -> float | None:
        """How long it takes until `size` bytes are below, and then back.

        None if there is no room for them there, though `shed` bytes can be given up.
        """
        if size > self.tiers.free + shed:
            return None
        return self.tiers.store_seconds(size) + size / self.tiers.read_bandwidth

    def open_layered(
        self, seq_id: int, tokens: int, capacity: int, activation_bytes: int, seconds: float
    ) -> bool:
        """Let a new sequence keep only some layers in memory, as many as fit `tokens` tokens.

        None stay where others' must go below first.  False if not even windows fit then, or the
        rest would take longer than `seconds` to go below (LayerKV, arXiv 2410.00428, equation 4),
        or has no room there.
        """
        layers = self.layers
        if layers is None:
            return False
        spare = self._room.spare(activation_bytes)
        resident = layers.most_resident(tokens, spare)
        if resident < 0:
            if layers.most_resident(tokens, spare + layers.resident) < 0:
                return False
            resident = 0
        size = layers.bytes_away(resident, tokens)
        return self.tiers.store_seconds(size) <= seconds and layers.open(seq_id, resident, capacity)

    def reserve_layered(
        self, seq_id: int, tokens: int, activation_bytes: int, most: Cost
    ) -> KvTable | None:
        """As `KvManager.reserve`, for a layered sequence."""
        assert self.layers is not None
        missing = partial(self.layers.missing, seq_id, tokens)
        if self._room.make(missing, activation_bytes, most) and self.layers.cover(seq_id, tokens):
            return self.layers.table(seq_id)
        return None

    def complete(self, seq_id: int, activation_bytes: int) -> bool:
        """Begin to bring all layers of a layered sequence back; False without room for them."""
        assert self.layers is not None
        missing = partial(self.layers.missing_at_all, seq_id)
        self.layers.hold(seq_id, still=True)
        fits = self._room.make(missing, activation_bytes)
        self.layers.hold(seq_id, still=False)
        return fits and self.layers.bring_back(seq_id)

    def collect(self, seq_id: int) -> tuple[Holding, int] | None:
        """The rows of a RETURNING sequence and their tokens; None: not yet, or it is LOST."""
        if self.layers is not None and seq_id in self.layers:
            tokens = self.layers.tokens(seq_id)
            holding = self.layers.collect(seq_id)
        else:
            tokens = self.lot.tokens(seq_id)
            holding = self.lot.collect(seq_id)
        return None if holding is None else (holding, tokens)

    def ferry(self, plan: StepPlan) -> Ferry | None:
        """What carries layers in and out while `plan` runs; None if none of it is layered."""
        layers = self.layers
        if not layers:
            return None
        parts = {s.seq_id: (s.start, s.length) for s in plan.steps if s.seq_id in layers}
        return layers.ferry(parts) if parts else None

    def wait(self) -> bool:
        """Return when something has moved; False if nothing was moving."""
        return (self.layers is not None and self.layers.wait()) or self.lot.wait()

    def forget(self, seq_id: int) -> None:
        """Nobody needs it any more; twice is harmless."""
        self.lot.forget(seq_id)
        if self.layers is not None:
            self.layers.forget(seq_id)

    @property
    def sequences(self) -> list[int]:
        return [*self.lot, *(self.layers or ())]

    @property
    def bytes(self) -> int:
        """Bytes of their blocks."""
        return self.lot.below + (0 if self.layers is None else self.layers.below)

    @property
    def leaving(self) -> int:
        """Chunks that are free once copies have ended."""
        return self.lot.leaving + (0 if self.layers is None else self.layers.resident)

    def release(self, count: int) -> int:
        """Wait for copies until `count` chunks are free; how many became."""
        freed = self.lot.release(count)
        if freed < count and self.layers is not None:
            freed += self.layers.release(count - freed)
        return freed
