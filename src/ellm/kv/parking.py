"""KV that has gone below, or is on its way: of sequences that yielded, and of prefixes.

    in memory ──park──▶ LEAVING ──written──▶ BELOW ──fetch──▶ RETURNING ──read──▶ in memory
                           └──── take back ───────────────────────────────────────▶

Rows stay where they are until their bytes are safe below, and a failed write keeps them.  Whoever
is short of memory meanwhile can wait for the writes (kv/manager.py's source "leaving").
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import Generic

from ellm.kv.store import Holding, KvStore
from ellm.memory.block import Block, BlockState, BlockTransfer
from ellm.memory.tiers import Tiers
from ellm.memory.transfer import TransferState


class Whereabouts(Enum):
    """Where a sequence's KV is.  LAYERED: some layers' below; LOST: it must be computed again."""

    LAYERED = "layered"
    LEAVING = "leaving"
    BELOW = "below"
    RETURNING = "returning"
    LOST = "lost"


@dataclass(slots=True, eq=False)
class Parked(Generic[Holding]):
    """`tokens` tokens of one sequence.  `holding` are its rows while there are any.

    `block` is its own, None while the bytes come from a block that is someone else's.
    """

    tokens: int
    where: Whereabouts
    block: Block | None
    holding: Holding | None
    transfers: list[BlockTransfer] = field(default_factory=list)


class ParkingLot(Generic[Holding]):
    """KV of `store` that is below in `tiers`, by sequence."""

    def __init__(self, store: KvStore[Holding], tiers: Tiers) -> None:
        self._store = store
        self._tiers = tiers
        self._parked: dict[int, Parked[Holding]] = {}

    def __iter__(self) -> Iterator[int]:
        return iter(list(self._parked))

    def where(self, seq_id: int) -> Whereabouts | None:
        """None for a sequence that has nothing here."""
        parked = self._parked.get(seq_id)
        return None if parked is None else parked.where

    def tokens(self, seq_id: int) -> int:
        return self._parked[seq_id].tokens

    @property
    def below(self) -> int:
        """Bytes of blocks that sequences have below, or on their way down."""
        return sum(p.block.size for p in self._parked.values() if p.block is not None)

    @property
    def sequences(self) -> int:
        return sum(parked.block is not None for parked in self._parked.values())

    @property
    def leaving(self) -> int:
        """At most how many chunks are free once everything LEAVING is below."""
        return sum(
            self._store.chunks_alone(parked.tokens)
            for parked in self._parked.values()
            if parked.where is Whereabouts.LEAVING
        )

    @property
    def moving(self) -> bool:
        """Whether something is on its way down or up."""
        moving = (Whereabouts.LEAVING, Whereabouts.RETURNING)
        return any(parked.where in moving for parked in self._parked.values())

    def park(self, seq_id: int, holding: Holding, tokens: int) -> bool:
        """Begin to send the first `tokens` tokens down; False, and no change, without room."""
        assert seq_id not in self._parked, seq_id
        self._store.trim(holding, tokens)
        block = self._tiers.put(self._store.extents(holding, tokens))
        if block is None:
            return False
        self._parked[seq_id] = Parked(tokens, Whereabouts.LEAVING, block, holding)
        return True

    def take_back(self, seq_id: int) -> Holding:
        """The rows of a sequence that is still LEAVING, as they were."""
        parked = self._parked.pop(seq_id)
        assert parked.where is Whereabouts.LEAVING, (seq_id, parked.where)
        assert parked.block is not None
        assert parked.holding is not None
        self._tiers.drop(parked.block)
        return parked.holding

    def fetch(self, seq_id: int, holding: Holding) -> None:
        """Begin to bring what is BELOW into the rows of `holding`, which has as many."""
        parked = self._parked[seq_id]
        assert parked.where is Whereabouts.BELOW, (seq_id, parked.where)
        assert parked.block is not None
        self._begin(parked, holding, parked.block, parked.tokens)

    def fetch_from(self, seq_id: int, holding: Holding, block: Block, tokens: int, of: int) -> None:
        """Begin to bring the first `tokens` of the `of` tokens in another's `block`."""
        assert seq_id not in self._parked, seq_id
        parked = self._parked[seq_id] = Parked(tokens, Whereabouts.BELOW, None, None)
        self._begin(parked, holding, block, of)

    def _begin(self, parked: Parked[Holding], holding: Holding, block: Block, of: int) -> None:
        parked.where, parked.holding = Whereabouts.RETURNING, holding
        parked.transfers = [
            self._tiers.get(block, extents, offset)
            for offset, extents in self._store.pieces(holding, parked.tokens, of)
        ]

    def settle(self) -> None:
        """Look what has ended since; rows whose bytes are safe below are given up."""
        self._tiers.poll()
        for parked in self._parked.values():
            if parked.where is Whereabouts.LEAVING:
                self._settle_leaving(parked)

    def _settle_leaving(self, parked: Parked[Holding]) -> bool:
        """Whether the rows are free now."""
        assert parked.block is not None
        if parked.block.state is not BlockState.READY or parked.holding is None:
            return False
        self._close(parked)
        parked.where = Whereabouts.BELOW
        return True

    def release(self, count: int) -> int:
        """Wait for rows to leave until `count` chunks are free; how many became.

        Rows whose write fails are given up too: `count` is wanted now.
        """
        freed = 0
        for parked in list(self._parked.values()):
            if freed >= count:
                break
            if parked.where is not Whereabouts.LEAVING or parked.block is None:
                continue
            self._tiers.wait(parked.block)
            self._tiers.poll()
            holding = parked.holding
            assert holding is not None
            if parked.block.state is BlockState.READY:
                parked.where = Whereabouts.BELOW
            else:
                self._lose(parked)
            parked.holding = None
            freed += self._store.trim(holding, 0)
            self._store.close(holding)
        return freed

    def collect(self, seq_id: int) -> Holding | None:
        """The rows of a RETURNING sequence once all its bytes are there; its block is forgotten.

        None while they are not, or when it turned out LOST.
        """
        parked = self._parked[seq_id]
        assert parked.where is Whereabouts.RETURNING, (seq_id, parked.where)
        if any(transfer.pending for transfer in parked.transfers):
            return None
        if any(transfer.state is not TransferState.DONE for transfer in parked.transfers):
            self._close(parked)
            self._lose(parked)
            return None
        del self._parked[seq_id]
        if parked.block is not None:
            self._tiers.drop(parked.block)
        return parked.holding

    def forget(self, seq_id: int) -> None:
        """Nobody needs it any more; twice is harmless."""
        parked = self._parked.pop(seq_id, None)
        if parked is None:
            return
        for transfer in parked.transfers:
            if transfer.pending:
                self._tiers.cancel(transfer)
        if parked.block is not None:
            self._tiers.drop(parked.block)
        if parked.holding is not None:
            self._store.close(parked.holding)

    def wait(self) -> bool:
        """Return when something that was moving has moved; False if nothing was."""
        for parked in self._moving():
            transfer = next((t for t in parked.transfers if t.pending), None)
            if transfer is not None:
                self._tiers.wait(transfer)
            elif parked.where is Whereabouts.LEAVING and parked.block is not None:
                self._tiers.wait(parked.block)
            return True
        return False

    def _moving(self) -> Iterator[Parked[Holding]]:
        """Those on their way up before those on their way down."""
        for where in (Whereabouts.RETURNING, Whereabouts.LEAVING):
            for parked in self._parked.values():
                failed = parked.block is not None and parked.block.state is BlockState.FAILED
                if parked.where is where and not (where is Whereabouts.LEAVING and failed):
                    yield parked

    def _lose(self, parked: Parked[Holding]) -> None:
        parked.where = Whereabouts.LOST
        if parked.block is not None:
            self._tiers.drop(parked.block)
            parked.block = None

    def _close(self, parked: Parked[Holding]) -> None:
        assert parked.holding is not None
        self._store.close(parked.holding)
        parked.holding = None

    def check(self) -> None:
        for parked in self._parked.values():
            rows = parked.where in (Whereabouts.LEAVING, Whereabouts.RETURNING)
            assert (parked.holding is not None) == rows, parked
