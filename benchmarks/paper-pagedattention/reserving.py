"""An engine that reserves memory for all tokens a request may ever have when it lets it in.

The scheduler, the pool and the workspace are those of every other contender.  What differs is the
store: `missing` and `extend` take a request's whole reservation from a buddy allocator the first
time they are asked, and everything is lacking while no block is large enough.  Rows are mapped
within a reservation as they are written, which makes no difference: nobody else may have them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from buddy import Block, Buddies

from ellm.core.config import SchedulerConfig
from ellm.core.layers import KvTable
from ellm.core.request import Request
from ellm.engine.assembly import EngineMemory
from ellm.engine.engine import Engine
from ellm.kv.contiguous import ContiguousHolding, ContiguousStore
from ellm.kv.geometry import KvGeometry
from ellm.kv.manager import KvManager
from ellm.memory.pool import ChunkPool

Rule = Callable[[int, int], int]
"""Tokens to reserve for a prompt and an answer of so many tokens."""


@dataclass(slots=True)
class Reservation:
    """`asked` tokens for a request that will have `final`, in a `block` of at least as many."""

    final: int
    asked: int
    block: Block | None = None


class ReservingStore(ContiguousStore):
    """`places` tokens for all.  `next_one` belongs to whoever opens a holding next."""

    def __init__(
        self, pool: ChunkPool, geometry: KvGeometry, config: SchedulerConfig, places: int
    ) -> None:
        super().__init__(pool, geometry, config.max_model_len, config.max_num_seqs)
        self.next_one: Reservation | None = None
        self._places = Buddies(places)
        self._made: dict[int, Reservation] = {}  # by address slot

    def open(self, tokens: int = 0) -> ContiguousHolding | None:
        holding = super().open(tokens)
        if holding is not None:
            assert self.next_one is not None, holding
            self._made[holding.slot] = replace(self.next_one)
        return holding

    def missing(self, holding: ContiguousHolding, tokens: int) -> int:
        mine = self._made[holding.slot]
        if mine.block is None and not self._places.has(mine.asked):
            return self._pool.total + 1
        return super().missing(holding, tokens)

    def extend(self, holding: ContiguousHolding, tokens: int) -> bool:
        mine = self._made[holding.slot]
        if mine.block is None:
            mine.block = self._places.take(mine.asked)
        return mine.block is not None and super().extend(holding, tokens)

    def close(self, holding: ContiguousHolding) -> None:
        mine = self._made.pop(holding.slot)
        if mine.block is not None:
            self._places.give(mine.block)
        super().close(holding)

    @property
    def reservations(self) -> list[Reservation]:
        """Those with a block."""
        return [each for each in self._made.values() if each.block is not None]


class ReservingManager(KvManager[ContiguousHolding]):
    """Tells the store whose holding it opens; `wanted` has every request's, by sequence."""

    def __init__(self, memory: EngineMemory, store: ReservingStore) -> None:
        super().__init__(memory.kv.room, store)
        self.store = store
        self.wanted: list[Reservation] = []

    def reserve(
        self, seq_id: int, tokens: int, activation_bytes: int, **how: Any
    ) -> KvTable | None:
        self.store.next_one = self.wanted[seq_id]
        return super().reserve(seq_id, tokens, activation_bytes, **how)


class ReservingEngine(Engine):
    """By `rule`, which sees the length of an answer, as only an oracle can; `places` for all."""

    def __init__(
        self,
        rule: Rule,
        places: int,
        config: SchedulerConfig,
        memory: EngineMemory,
        *others: Any,
        **more: Any,
    ) -> None:
        arena = memory.kv.arena
        layers = arena.rows // arena.group_rows // config.max_num_seqs * arena.layers_per_group
        geometry = KvGeometry(arena.layer, layers, arena.layers_per_group)
        self._rule = rule
        self.reserving = ReservingManager(
            memory, ReservingStore(memory.pool, geometry, config, places)
        )
        kv, span = self.reserving, self.reserving.store.span
        super().__init__(config, replace(memory, kv=kv, arena=span), *others, **more)

    def enqueue(self, request: Request) -> None:
        prompt, answer = len(request.prompt), request.max_tokens
        self.reserving.wanted.append(Reservation(prompt + answer, self._rule(prompt, answer)))
        super().enqueue(request)
