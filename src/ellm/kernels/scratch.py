"""Where a step's outputs and intermediates come from."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Protocol, TypeVar

import torch
from torch import Tensor

Taken = TypeVar("Taken")


class Scratch(Protocol):
    """A stack of tensors that live no longer than a step."""

    def take(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """A contiguous tensor with undefined contents, aligned to 64 bytes."""
        ...

    def again(self, key: Hashable, take: Callable[[Scratch], Taken]) -> Taken:
        """What `take` takes from here on, which must depend on `key` alone.

        Where it has been taken before, the same again, without going through it.
        """
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
