"""Bytes that are, or are on their way, below the pool."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import Enum

from ellm.memory.fences import Fence
from ellm.memory.level import Level
from ellm.memory.store import Place, Store
from ellm.memory.transfer import Direction, Transfer


class BlockState(Enum):
    """WRITING, then READY or FAILED, in the end DROPPED.  FAILED: nothing of it is below."""

    WRITING = "writing"
    READY = "ready"
    FAILED = "failed"
    DROPPED = "dropped"


class Purpose(Enum):
    """What a transfer is for.  Nobody asks for a SPILL: tiers move blocks between themselves."""

    PUT = "put"
    UPDATE = "update"
    GET = "get"
    SPILL = "spill"


@dataclass(slots=True, eq=False)
class Block:
    """Room for `size` bytes, of which the first `filled` are written once its transfers are done.

    `transfers` of one block run one after the other, in the order they were asked for; only the
    first has been handed to the copier.
    """

    size: int
    filled: int
    level: Level[Store, Block] = field(repr=False)
    place: Place = field(repr=False)
    state: BlockState = BlockState.WRITING
    transfers: deque[BlockTransfer] = field(default_factory=deque, repr=False)


class BlockTransfer(Transfer):
    """A transfer of `block`, which lies at `target` when it is done (None: where it lay)."""

    def __init__(
        self,
        block: Block,
        purpose: Purpose,
        size: int,
        steps: Callable[[], Iterator[int]],
        target: tuple[Level[Store, Block], Place] | None = None,
        fence: Fence | None = None,
    ) -> None:
        way = Direction.UP if purpose is Purpose.GET else Direction.DOWN
        super().__init__(way, size, steps, fence)
        self.block = block
        self.purpose = purpose
        self.target = target
