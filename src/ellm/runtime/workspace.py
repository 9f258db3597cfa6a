"""A stack of step-lifetime tensors over one address range that never moves.

    address │ kept by the caller ··│ released at the next mark ··│ free ·········│ + capacity
            └ 0                    └ mark                        └ top     peak ┘

`Workspace` hands out views of memory that is mapped already.  `WorkspaceCounter` has the same face,
takes no memory and hands out empty placeholders: the same code run over it tells exactly how many
bytes a step will take.  Both are a `kernels.scratch.Scratch`.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from math import prod
from typing import cast

import torch
from torch import Tensor

from ellm.core.units import round_up
from ellm.kernels.scratch import Scratch, Taken
from ellm.runtime.views import view

ALIGNMENT = 64
_MAX_GROUPS = 4096

Shape = tuple[int, ...]


class WorkspaceCounter:
    """The height a stack would reach.  What `take` returns has the dtype asked for, but no room."""

    def __init__(self) -> None:
        self._top = 0
        self._empty: dict[torch.dtype, Tensor] = {}
        self.peak = 0

    def take(self, shape: Shape, dtype: torch.dtype) -> Tensor:
        self._top += round_up(prod(shape) * dtype.itemsize, ALIGNMENT)
        if self._top > self.peak:
            self.peak = self._top
        empty = self._empty.get(dtype)
        if empty is None:
            empty = self._empty[dtype] = torch.empty(0, dtype=dtype)
        return empty

    def again(self, key: Hashable, take: Callable[[Scratch], Taken]) -> Taken:
        return take(self)

    def mark(self) -> int:
        return self._top

    def release(self, mark: int) -> None:
        assert 0 <= mark <= self._top, (mark, self._top)
        self._top = mark

    def reset(self) -> None:
        self._top = self.peak = 0


@dataclass(frozen=True, slots=True)
class _Group:
    """What was taken together, and how the stack stood afterwards and at its highest."""

    taken: object
    top: int
    peak: int


class Workspace:
    """`capacity` bytes of address room from `address`, which is a multiple of 64.

    The caller sees to it that memory is mapped as far as the stack will reach.  Addresses never
    move, so what was taken at some height is kept, and found again there.
    """

    def __init__(self, address: int, capacity: int, device: torch.device | str = "cpu") -> None:
        assert address % ALIGNMENT == 0, hex(address)
        self.capacity = capacity // ALIGNMENT * ALIGNMENT
        self._bytes = view(address, self.capacity, torch.uint8, device)
        self._bases: dict[torch.dtype, Tensor] = {}
        self._groups: dict[tuple[int, Hashable], _Group] = {}
        self._top = 0
        self.peak = 0

    def take(self, shape: Shape, dtype: torch.dtype) -> Tensor:
        start = self._top
        self._top = start + round_up(prod(shape) * dtype.itemsize, ALIGNMENT)
        assert self._top <= self.capacity, (start, shape, dtype, self.capacity)
        if self._top > self.peak:
            self.peak = self._top
        base = self._bases.get(dtype)
        if base is None:
            base = self._bases[dtype] = self._bytes.view(dtype)
        strides = tuple(prod(shape[axis + 1 :]) for axis in range(len(shape)))
        return base.as_strided(shape, strides, start // dtype.itemsize)

    def mark(self) -> int:
        return self._top

    def release(self, mark: int) -> None:
        assert 0 <= mark <= self._top, (mark, self._top)
        self._top = mark

    def again(self, key: Hashable, take: Callable[[Scratch], Taken]) -> Taken:
        place = (self._top, key)
        group = self._groups.get(place)
        if group is None:
            before, self.peak = self.peak, self._top
            group = _Group(take(self), self._top, self.peak)
            if len(self._groups) >= _MAX_GROUPS:
                self._groups.clear()
            self._groups[place] = group
            self.peak = before
        self._top = group.top
        self.peak = max(self.peak, group.peak)
        return cast(Taken, group.taken)

    def reset(self) -> None:
        """An empty stack, and a peak that counts from now."""
        self._top = self.peak = 0
