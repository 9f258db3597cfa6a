"""Every sequence in one address range per layer group (vTensor, arXiv 2407.15309).

The arena is cut into slots, one per sequence, and a slot into one range per group:

    slot 0                              slot 1
    ├ group 0 ─────┬ group 1 ─────┬ … ──┼ group 0 …
    │████░░░░░░░░░░│████░░░░░░░░░░│     │            █ mapped   ░ address only

A range is as long as the longest context, which costs nothing; chunks appear behind it as the
sequence grows.  A shared prefix is the same chunk mapped in two ranges.  The ranges of an ended
sequence stay mapped for the next one until someone asks for their chunks.
"""

from __future__ import annotations

from dataclasses import dataclass

from ellm.core.errors import DriverError
from ellm.core.layers import KvArena, KvTable
from ellm.core.units import ceil_div
from ellm.kv.geometry import KvGeometry
from ellm.kv.shelf import SlotShelf
from ellm.kv.store import Extent
from ellm.memory.driver import Span
from ellm.memory.pool import ChunkPool
from ellm.memory.virtual import VirtualTensor

# Kernels of libraries count rows in int32.
MOST_ROWS = 2**31 - 1
# Of the 128 TiB that a process has.
MOST_ADDRESSES = 16 << 40


@dataclass(slots=True, eq=False)
class ContiguousHolding:
    """A slot and its ranges, one a group: `tokens` asked for, `room` tokens' chunks mapped.

    `forked` says that some of its chunks were shared at some time.  The ranges of a `layered` one
    grow and shrink each for itself (kv/layered.py), and it has no tokens until it is complete.
    """

    slot: int
    ranges: list[VirtualTensor]
    table: KvTable
    tokens: int = 0
    room: int = 0
    forked: bool = False
    layered: bool = False


class ContiguousStore:
    """Holdings of `geometry` for at most `slots` sequences of at most `max_tokens` tokens, fewer
    where addresses or row numbers end before.

    Without `keep_warm` an ended sequence's ranges are given back at once.
    """

    def __init__(
        self,
        pool: ChunkPool,
        geometry: KvGeometry,
        max_tokens: int,
        slots: int,
        owner: str = "kv",
        keep_warm: bool = False,
    ) -> None:
        self._pool = pool
        self._geometry = geometry
        self._owner = owner
        self._row_bytes = geometry.row_bytes
        self._groups = geometry.groups
        self._range_bytes = geometry.range_bytes(max_tokens, pool.chunk_bytes)
        self._range_slots = self._range_bytes // pool.chunk_bytes
        slots = self._most_slots(slots)
        self._span = pool.driver.reserve(slots * geometry.groups * self._range_slots)
        self._shelf = SlotShelf(slots)
        self._keep_warm = keep_warm
        self._ranges: dict[int, list[VirtualTensor]] = {}
        self._open: dict[int, ContiguousHolding] = {}
        group_rows = self._range_bytes // geometry.row_bytes
        self._slot_rows = group_rows * geometry.groups
        self._arena = KvArena(
            address=self._span.address,
            rows=slots * self._slot_rows,
            row_bytes=geometry.row_bytes,
            group_rows=group_rows,
            layers_per_group=geometry.layers_per_group,
            layer=geometry.layer,
        )

    def _most_slots(self, wanted: int) -> int:
        """As many of those `wanted` as there are addresses and row numbers for, at least one."""
        slot_bytes = self._groups * self._range_bytes
        by_rows = MOST_ROWS * self._row_bytes // slot_bytes
        return max(1, min(wanted, by_rows, MOST_ADDRESSES // slot_bytes))

    @property
    def arena(self) -> KvArena:
        return self._arena

    @property
    def token_bytes(self) -> int:
        return self._geometry.token_bytes

    @property
    def warm(self) -> int:
        return sum(self._chunks(room) for room in self._shelf.rooms)

    @property
    def span(self) -> Span:
        return self._span

    def open(self, tokens: int = 0) -> ContiguousHolding | None:
        found = self._shelf.take(tokens)
        if found is None:
            return None
        slot, room = found
        table = KvTable((slot * self._slot_rows,), self._arena.group_rows)
        holding = ContiguousHolding(slot, self._slot_ranges(slot), table, room=room)
        self._open[slot] = holding
        return holding

    def _slot_ranges(self, slot: int) -> list[VirtualTensor]:
        if slot not in self._ranges:
            width = self._range_slots
            firsts = [(slot * self._groups + group) * width for group in range(self._groups)]
            self._ranges[slot] = [
                VirtualTensor(self._pool, self._owner, self._span, first, width) for first in firsts
            ]
        return self._ranges[slot]

    def missing(self, holding: ContiguousHolding, tokens: int) -> int:
        if tokens <= holding.room:
            return 0
        # Ranges of a holding always grow together, so one speaks for all.
        return self._groups * holding.ranges[0].missing(0, tokens * self._row_bytes)

    def extend(self, holding: ContiguousHolding, tokens: int) -> bool:
        if not self.premap(holding, tokens):
            return False
        holding.tokens = max(tokens, holding.tokens)
        return True

    def within(self, holding: ContiguousHolding, tokens: int) -> KvTable | None:
        if tokens > holding.room:
            return None
        if tokens > holding.tokens:
            holding.tokens = tokens
        return holding.table

    def premap(self, holding: ContiguousHolding, tokens: int) -> bool:
        if tokens <= holding.room:
            return True
        if self.missing(holding, tokens) > self._pool.available(self._owner):
            return False
        if not self._grow(holding, tokens * self._row_bytes):
            for tensor in holding.ranges:
                tensor.shrink(holding.room * self._row_bytes)
            return False
        holding.room = self._room(tokens)
        return True

    def trim(self, holding: ContiguousHolding, tokens: int) -> int:
        holding.tokens = min(tokens, holding.tokens)
        room = self._room(holding.tokens)
        if room >= holding.room:
            return 0
        freed = sum(tensor.shrink(room * self._row_bytes) for tensor in holding.ranges)
        holding.room = room
        return freed

    def reclaim(self, count: int) -> int:
        freed = 0
        while freed < count and (slot := self._shelf.oldest()) is not None:
            freed += self._cool(slot)
        return freed

    def _cool(self, slot: int) -> int:
        """Give back every chunk of a slot that has no holding; how many became free."""
        freed = sum(tensor.shrink(0) for tensor in self._ranges[slot])
        self._shelf.put_cold(slot)
        return freed

    def _grow(self, holding: ContiguousHolding, size: int) -> bool:
        """Whether every range could grow to `size` bytes; False may leave some that did."""
        try:
            return all(tensor.grow(size) for tensor in holding.ranges)
        except DriverError as refusal:  # the machine had less than the budget said
            self._pool.refusal = refusal
            return False

    def _room(self, tokens: int) -> int:
        """Tokens for which there are chunks once there are for `tokens`."""
        chunks = ceil_div(tokens * self._row_bytes, self._pool.chunk_bytes)
        return chunks * self._pool.chunk_bytes // self._row_bytes

    def _chunks(self, tokens: int) -> int:
        """Chunks behind all ranges of a slot with room for `tokens` tokens."""
        return self._geometry.contiguous_chunks(tokens, self._pool.chunk_bytes)

    def missing_for_fork(self, holding: ContiguousHolding, tokens: int) -> int:
        partial = tokens * self._row_bytes % self._pool.chunk_bytes
        return self._groups if partial else 0

    def fork(self, holding: ContiguousHolding, tokens: int) -> ContiguousHolding | None:
        assert tokens <= holding.tokens, (tokens, holding.tokens)
        if self.missing_for_fork(holding, tokens) > self._pool.available(self._owner):
            return None
        child = self._open_cold()
        if child is None:
            return None
        holding.forked = child.forked = True
        if not self._copy(holding, child, tokens * self._row_bytes):
            self.close(child)
            return None
        child.tokens = tokens
        child.room = self._room(tokens)
        return child

    def _open_cold(self) -> ContiguousHolding | None:
        """A holding with nothing mapped."""
        child = self.open()
        if child is not None and child.room:
            child.room = 0
            for tensor in child.ranges:
                tensor.clear()
        return child

    def _copy(self, source: ContiguousHolding, target: ContiguousHolding, end: int) -> bool:
        """Share whole chunks of the first `end` bytes of every range; copy what is left over."""
        edge = end - end % self._pool.chunk_bytes
        try:
            for old, new in zip(source.ranges, target.ranges, strict=True):
                new.share(old, edge // self._pool.chunk_bytes)
                if not new.cover(edge, end):
                    return False
                if edge < end:
                    self._pool.driver.copy(new.address + edge, old.address + edge, end - edge)
        except DriverError as refusal:
            self._pool.refusal = refusal
            return False
        return True

    def close(self, holding: ContiguousHolding) -> None:
        del self._open[holding.slot]
        # A chunk that someone else still reads must not be written by the slot's next sequence.
        shared = holding.forked and any(tensor.shared for tensor in holding.ranges)
        if holding.room and self._keep_warm and not shared and not holding.layered:
            self._shelf.put_warm(holding.slot, holding.room)
        else:
            self._cool(holding.slot)

    @property
    def groups(self) -> int:
        return self._groups

    @property
    def layers_per_group(self) -> int:
        return self._geometry.layers_per_group

    @property
    def row_bytes(self) -> int:
        return self._row_bytes

    def open_layered(self) -> ContiguousHolding | None:
        holding = self._open_cold()
        if holding is not None:
            holding.layered = True
        return holding

    def mapped_chunks(self, holding: ContiguousHolding) -> int:
        return sum(tensor.mapped for tensor in holding.ranges)

    def chunks_in_group(self, tokens: int) -> int:
        return ceil_div(tokens * self._row_bytes, self._pool.chunk_bytes)

    def missing_in_group(self, holding: ContiguousHolding, group: int, tokens: int) -> int:
        return holding.ranges[group].missing(0, tokens * self._row_bytes)

    def cover_group(self, holding: ContiguousHolding, group: int, tokens: int) -> bool:
        assert holding.layered, holding.slot
        try:
            return holding.ranges[group].grow(tokens * self._row_bytes)
        except DriverError as refusal:
            self._pool.refusal = refusal
            return False

    def drop_group(self, holding: ContiguousHolding, group: int) -> int:
        assert holding.layered, holding.slot
        return holding.ranges[group].shrink(0)

    def group_extents(
        self, holding: ContiguousHolding, group: int, first: int, last: int
    ) -> list[Extent]:
        start = holding.ranges[group].address + first * self._row_bytes
        return [(start, (last - first) * self._row_bytes)]

    def complete(self, holding: ContiguousHolding, tokens: int) -> None:
        holding.layered = False
        holding.tokens, holding.room = tokens, self._room(tokens)

    def table(self, holding: ContiguousHolding) -> KvTable:
        return holding.table

    def extents(self, holding: ContiguousHolding, tokens: int) -> list[Extent]:
        assert tokens <= holding.tokens, (tokens, holding.tokens)
        return [(tensor.address, tokens * self._row_bytes) for tensor in holding.ranges]

    def pieces(
        self, holding: ContiguousHolding, tokens: int, of: int
    ) -> list[tuple[int, list[Extent]]]:
        extents = self.extents(holding, tokens)
        if tokens == of:
            return [(0, extents)]
        return [(group * of * self._row_bytes, [each]) for group, each in enumerate(extents)]

    def gathers(self, tokens: int) -> bool:
        return False

    def tokens(self, holding: ContiguousHolding) -> int:
        return holding.tokens

    def room(self, holding: ContiguousHolding) -> int:
        return holding.room

    def wasted_bytes(self) -> int:
        return sum(
            tensor.mapped * self._pool.chunk_bytes - holding.tokens * self._row_bytes
            for holding in self._open.values()
            for tensor in holding.ranges
        )

    def chunks_alone(self, tokens: int) -> int:
        return self._chunks(tokens)

    def check(self) -> None:
        assert len(self._shelf) + len(self._open) == self._arena.rows // self._slot_rows
        for holding in self._open.values():
            assert holding.tokens <= holding.room, (holding.tokens, holding.room)
            if holding.layered:
                continue
            chunks = ceil_div(holding.room * self._row_bytes, self._pool.chunk_bytes)
            for tensor in holding.ranges:
                tensor.check()
                assert tensor.mapped == chunks, (holding.slot, tensor.mapped, chunks)
