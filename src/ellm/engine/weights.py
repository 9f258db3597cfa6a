"""A model's weights: bytes in a range that never moves, there or not there."""

from __future__ import annotations

from collections.abc import Callable

from ellm.core.errors import BudgetError, DriverError
from ellm.core.units import ceil_div, format_bytes
from ellm.kv.room import Owners
from ellm.memory.pool import ChunkPool
from ellm.memory.virtual import VirtualTensor


class ModelWeights:
    """`size` bytes of an engine in a range of their own, which `read` fills from the checkpoint.

    `read(address)` touches no books and may run on any thread; everything else belongs to the
    step thread.
    """

    def __init__(
        self, pool: ChunkPool, owners: Owners, size: int, read: Callable[[int], None]
    ) -> None:
        span = pool.driver.reserve(ceil_div(size, pool.chunk_bytes))
        self._tensor = VirtualTensor(pool, owners.weights, span)
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
        self._read(self._tensor.address)

    def drop(self) -> int:
        """Give the memory back; how many chunks became free.  The range stays."""
        held = self._tensor.mapped
        self._tensor.clear()
        return held

    def leave(self) -> None:
        """Give the memory and the range back.  No view of it may be used again."""
        self._tensor.clear()
        pool, span = self._tensor.pool, self._tensor.span
        if pool.unmaps is not None:
            pool.unmaps.settle(span, 0, span.slots)
        pool.driver.release(span)
