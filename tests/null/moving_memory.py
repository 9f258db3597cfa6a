"""Memory that moves under a device that works: no byte of it may be lost, spoilt or missing.

    range     EMPTY ── cover, fill ──▶ HERE ── put ──▶ LEAVING ──▶ BELOW ── cover, get ──▶ RETURNING
                ▲                     │  ▲  ▲             │          ▲                      │    │
                └─── give back at once┘  │  └─ take back ─┘          └────── cancel ────────┘    │
                                         └───────────────────────────────────────────────────────┘

There are fewer chunks than ranges want, so each is soon somebody else's.  Everything is asked for
at once, though the device may be far behind, and every look that the device takes at a chunk must
find the pattern that was meant when the look was launched.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

from ellm.memory.block import Block, BlockState, BlockTransfer
from ellm.memory.fences import Fence
from ellm.memory.pool import ChunkPool
from ellm.memory.tiers import Tiers
from ellm.memory.transfer import TransferState
from ellm.memory.virtual import VirtualTensor


class Device(Protocol):
    """Works on mapped addresses, in order, later than it is told."""

    def fill(self, address: int, count: int, pattern: int) -> None:
        """Write `count` bytes that say which pattern they are."""
        ...

    def look(self, address: int, count: int, pattern: int) -> None:
        """Note whether the bytes are that pattern's."""
        ...

    def dawdle(self) -> None:
        """Do nothing, for longer than it takes to launch a few things more."""
        ...

    def fence(self) -> Fence: ...

    def finish(self) -> int:
        """Do all that was launched; how many looks, or bytes, found something else so far."""
        ...


class Where(Enum):
    EMPTY = "empty"
    HERE = "here"
    LEAVING = "leaving"
    BELOW = "below"
    RETURNING = "returning"


@dataclass(eq=False)
class Range:
    """A tensor whose first chunks have `patterns`, here or below."""

    tensor: VirtualTensor
    where: Where = Where.EMPTY
    patterns: list[int] = field(default_factory=list)
    block: Block | None = None
    transfers: list[BlockTransfer] = field(default_factory=list)


class MovingMemory:
    """`count` ranges of at most `slots` chunks over a pool that has fewer, moved by `seed`."""

    def __init__(
        self,
        pool: ChunkPool,
        tiers: Tiers,
        device: Device,
        seed: int,
        count: int = 8,
        slots: int = 4,
    ) -> None:
        assert pool.total < count * slots, (pool.total, count * slots)
        self.pool, self.tiers, self.device = pool, tiers, device
        self.slots = slots
        self.size = pool.chunk_bytes
        self.done: Counter[str] = Counter()
        self._dice = random.Random(seed)
        self._patterns = 0
        self.ranges = [
            Range(VirtualTensor(pool, "kv", pool.driver.reserve(slots))) for _ in range(count)
        ]

    def run(self, steps: int) -> int:
        """Move things about, bring everything back and look at it; how many looks went wrong."""
        for _ in range(steps):
            self._settle()
            if self._dice.random() < 0.3:
                self.device.dawdle()
            self._act(self._dice.choice(self.ranges))
            self._tidy()
        for one in self.ranges:
            self._come_to_rest(one)
        wrong = self.device.finish()
        self.pool.check()
        self.tiers.check()
        assert self.tiers.used == 0, self.tiers.used
        assert self.pool.free == self.pool.total, self.pool.snapshot()
        return wrong

    def _settle(self) -> None:
        self.tiers.poll()
        for one in self.ranges:
            if one.where is Where.LEAVING and not one.block.transfers:
                assert one.block.state is BlockState.READY, one.block
                one.tensor.clear()
                one.where = Where.BELOW
            elif one.where is Where.RETURNING and not any(t.pending for t in one.transfers):
                assert {t.state for t in one.transfers} == {TransferState.DONE}, one.transfers
                self._arrived(one)

    def _arrived(self, one: Range) -> None:
        assert one.block is not None
        self.tiers.drop(one.block)
        one.block, one.transfers, one.where = None, [], Where.HERE
        self._look(one)
        self.done["returned"] += 1

    def _act(self, one: Range) -> None:
        acts = {
            Where.EMPTY: (self._fill,),
            Where.HERE: (self._look, self._rewrite, self._end, self._leave, self._leave),
            Where.LEAVING: (self._take_back, self._look, self._wait),
            Where.BELOW: (self._fetch, self._fetch, self._forget),
            Where.RETURNING: (self._cancel, self._wait),
        }
        self._dice.choice(acts[one.where])(one)

    def _tidy(self) -> None:
        """As between steps, and sometimes as in an idle engine."""
        self.pool.unmaps.flush(wait=False)
        if self._dice.random() < 0.02:
            self.pool.trim()
            self.tiers.trim()

    def _fill(self, one: Range) -> None:
        count = self._dice.randint(1, self.slots)
        if one.tensor.grow(count * self.size):
            one.where, one.patterns = Where.HERE, [0] * count
            for slot in range(count):
                self._write(one, slot)

    def _rewrite(self, one: Range) -> None:
        self._write(one, self._dice.randrange(len(one.patterns)))

    def _write(self, one: Range, slot: int) -> None:
        self._patterns += 1
        one.patterns[slot] = self._patterns
        self.device.fill(one.tensor.address + slot * self.size, self.size, self._patterns)

    def _look(self, one: Range) -> None:
        for slot, pattern in enumerate(one.patterns):
            self.device.look(one.tensor.address + slot * self.size, self.size, pattern)

    def _end(self, one: Range) -> None:
        """The last look is launched, and the chunks are somebody else's before it is taken."""
        self._look(one)
        one.tensor.clear()
        one.where, one.patterns = Where.EMPTY, []
        self.done["ended"] += 1

    def _leave(self, one: Range) -> None:
        extents = [(one.tensor.address, len(one.patterns) * self.size)]
        one.block = self.tiers.put(extents)
        if one.block is not None:
            one.where = Where.LEAVING
            self.done["left"] += 1

    def _take_back(self, one: Range) -> None:
        assert one.block is not None
        self.tiers.drop(one.block)
        one.block, one.where = None, Where.HERE
        self._look(one)
        self._rewrite(one)
        self.done["taken back"] += 1

    def _fetch(self, one: Range) -> None:
        """Chunk by chunk, so that some are there while others are not."""
        assert one.block is not None
        if one.tensor.grow(len(one.patterns) * self.size):
            one.where = Where.RETURNING
            one.transfers = [
                self.tiers.get(
                    one.block,
                    [(one.tensor.address + slot * self.size, self.size)],
                    slot * self.size,
                )
                for slot in range(len(one.patterns))
            ]

    def _cancel(self, one: Range) -> None:
        for transfer in one.transfers:
            if transfer.pending:
                self.tiers.cancel(transfer)
        one.tensor.clear()
        one.transfers, one.where = [], Where.BELOW
        self.done["cancelled"] += 1

    def _forget(self, one: Range) -> None:
        assert one.block is not None
        self.tiers.drop(one.block)
        one.block, one.where, one.patterns = None, Where.EMPTY, []

    def _wait(self, one: Range) -> None:
        assert one.block is not None
        self.tiers.wait(one.block)
        self._settle()

    def _come_to_rest(self, one: Range) -> None:
        """Back from below, looked at a last time, and given back."""
        if one.where in (Where.LEAVING, Where.RETURNING):
            self._wait(one)
        if one.where is Where.BELOW:
            while not one.tensor.grow(len(one.patterns) * self.size):
                other = next(each for each in self.ranges if each.where is Where.HERE)
                self._end(other)
            one.tensor.clear()
            self._fetch(one)
            self._wait(one)
        if one.where is Where.HERE:
            self._end(one)
