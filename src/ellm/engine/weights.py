"""A model's weights: bytes in a range that never moves, there or not there.

checkpoint ── read ──▶ memory ── send_below ──▶ tier, if there is one with room
                          ◀────── fetch ─────────┘
"""

from __future__ import annotations

from collections.abc import Callable

from ellm.core.errors import BudgetError, DriverError
from ellm.core.units import ceil_div, format_bytes
from ellm.kv.room import Owners
from ellm.memory.block import Block, BlockState
from ellm.memory.pool import ChunkPool
from ellm.memory.tiers import Tiers
from ellm.memory.transfer import Transfer
from ellm.memory.virtual import VirtualTensor


class ModelWeights:
    """`size` bytes of an engine in a range of their own, which `read` fills from the checkpoint.

    `read(address)` touches no books and may run on any thread, as may `enlarge_pages`; everything
    else belongs to the step thread.
    """

    def __init__(
        self, pool: ChunkPool, owners: Owners, size: int, read: Callable[[int], None]
    ) -> None:
        span = pool.driver.reserve(ceil_div(size, pool.chunk_bytes))
        self._tensor = VirtualTensor(pool, owners.weights, span)
        self._tiers: Tiers | None = None
        self._block: Block | None = None
        self.group = owners.engine
        self._size = size
        self._read = read

    @property
    def owner(self) -> str:
        return self._tensor.owner

    @property
    def chunks(self) -> int:
        """Chunks that the bytes need."""
        return ceil_div(self._size, self._tensor.pool.chunk_bytes)

    def take(self) -> None:
        """Put memory behind the range; its contents are undefined until they are read.

        Raises BudgetError, and takes nothing, when there is not enough.
        """
        pool = self._tensor.pool
        pool.refusal = None
        try:
            if self._tensor.grow(self._size):
                return
        except DriverError as refusal:
            pool.refusal = refusal
        room = format_bytes(pool.available(self.owner) * pool.chunk_bytes)
        reason = f"{room} can be had"
        if pool.refusal is not None:
            reason = f"the machine refuses: {pool.refusal}"
        raise BudgetError(
            f"the weights take {format_bytes(self._size)}, and of the budget of "
            f"{format_bytes(pool.total * pool.chunk_bytes)} {reason}: raise --memory, or choose a "
            "smaller --dtype"
        )

    def read(self) -> None:
        """Fill the memory behind the range."""
        self.enlarge_pages()
        self._read(self._tensor.address)

    def enlarge_pages(self) -> None:
        """See that the range, which every step reads, lies on the largest pages there are."""
        tensor = self._tensor
        tensor.pool.driver.enlarge_pages(tensor.span, tensor.first, tensor.mapped)

    def send_below(self, tiers: Tiers) -> bool:
        """Begin to copy the bytes down; False if there is no room.  Until `is_leaving` ends, they
        stay where they are.
        """
        self._tiers, self._block = tiers, tiers.put([(self._tensor.address, self._size)])
        return self._block is not None

    @property
    def is_leaving(self) -> bool:
        """Whether a copy down is under way, as of the tiers' last poll."""
        return self._block is not None and self._block.state is BlockState.WRITING

    def fetch(self) -> Transfer | None:
        """Begin to copy the bytes up again, into memory that was taken; None if none are below."""
        if self._tiers is None or self._block is None or self._block.state is not BlockState.READY:
            return None
        return self._tiers.get(self._block, [(self._tensor.address, self._size)])

    def forget_below(self) -> None:
        """Give up what is below, or on its way there."""
        if self._tiers is not None and self._block is not None:
            self._tiers.drop(self._block)
        self._tiers = self._block = None

    def drop(self) -> int:
        """Give the memory back; how many chunks became free.  The range stays.

        A copy down that has not ended is given up, one that has stays.
        """
        if self.is_leaving:
            self.forget_below()
        held = self._tensor.mapped
        self._tensor.clear()
        return held

    def leave(self) -> None:
        """Give everything back, the range included.  No view of it may be used again."""
        self.forget_below()
        self._tensor.clear()
        pool, span = self._tensor.pool, self._tensor.span
        pool.unmaps.settle(span, 0, span.slots)
        pool.driver.release(span)
