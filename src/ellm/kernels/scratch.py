"""Where a step's outputs and intermediates come from."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import Tensor


class Scratch(Protocol):
    """A stack of tensors that live no longer than a step."""

    def take(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """A contiguous tensor with undefined contents, aligned to 64 bytes."""
        ...

    def mark(self) -> int:
        """The present height of the stack, to be given to `release`."""
        ...

    def release(self, mark: int) -> None:
        """Forget everything taken since `mark`; those tensors must not be used again."""
        ...


@contextmanager
def scope(scratch: Scratch) -> Iterator[Scratch]:
    """Release on exit whatever is taken inside."""
    mark = scratch.mark()
    try:
        yield scratch
    finally:
        scratch.release(mark)
