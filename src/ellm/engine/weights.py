"""A model's weights: bytes in a range that never moves, there or not there."""

from __future__ import annotations

from collections.abc import Callable

from ellm.core.errors import BudgetError, DriverError
from ellm.core.units import ceil_div, format_bytes
from ellm.memory.virtual import VirtualTensor


class ModelWeights:
    """The first `size` bytes of `tensor`, which `read` fills from the checkpoint.

    `read` touches no books and may run on any thread; everything else belongs to the step thread.
    """

    def __init__(self, tensor: VirtualTensor, size: int, read: Callable[[], None]) -> None:
        self.read = read
        self._tensor = tensor
        self._size = size

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
        try:
            if self._tensor.grow(self._size):
                return
            reason = f"{format_bytes(pool.available(self.owner) * pool.chunk_bytes)} can be had"
        except DriverError as refusal:
            reason = f"the machine refuses: {refusal}"
        raise BudgetError(
            f"the weights take {format_bytes(self._size)}, and of the budget of "
            f"{format_bytes(pool.total * pool.chunk_bytes)} {reason}: raise --memory, or choose a "
            "smaller --dtype"
        )

    def drop(self) -> int:
        """Give the memory back; how many chunks became free.  The range stays."""
        held = self._tensor.mapped
        self._tensor.clear()
        return held

    def leave(self) -> None:
        """Give the memory and the range back.  No view of it may be used again."""
        self._tensor.clear()
        self._tensor.pool.driver.release(self._tensor.span)
