"""Matrix products: by PyTorch's library, and those of few rows by what is faster here.

Which that is was measured the first time that a process met a kind of product, and stays: a step
that is captured and the same step launched are then the same kernels.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TypeAlias
from weakref import ref

import torch
from torch import Tensor

from ellm.kernels.cuda import skinny
from ellm.kernels.cuda.fastest import Fastest

Way: TypeAlias = Callable[[Tensor, Tensor, Tensor | None, Tensor], None]
Timer: TypeAlias = Callable[[Callable[[], None]], float]
"""Seconds, or anything that is more for longer, that work takes when it is replayed."""

# Matrices of a shape that are read in turn when it is timed.  What a step reads lies in no cache:
# 16 of 4096 × 4096 are 512 MiB, ten times what an H200 caches.
_MATRICES = 16


def whole(x: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor) -> None:
    """kernels.ops.Ops.linear, by PyTorch."""
    if bias is None:
        torch.mm(x, weight.t(), out=out)
    else:
        torch.addmm(bias, x, weight.t(), out=out)


SOME: tuple[Way, ...] = (whole, partial(skinny.few, each=16), partial(skinny.few, each=32))
SINGLE: tuple[Way, ...] = (*SOME, skinny.one)
_fastest: Fastest[Way] = Fastest()


class Products:
    """Products with the matrices of one model, all of which can be read while it runs."""

    def __init__(self, fastest: Fastest[Way] = _fastest) -> None:
        self._fastest = fastest
        # Whoever owns a model drops its matrices; their memory may be unmapped then.
        self._matrices: dict[tuple[torch.Size, torch.dtype], list[ref[Tensor]]] = {}

    def note(self, weight: Tensor) -> None:
        """Of this matrix there will be products, as long as somebody has it."""
        alike = self._matrices.setdefault((weight.shape, weight.dtype), [])
        alike[:] = [known for known in alike if known() is not None]
        if len(alike) < _MATRICES:
            alike.append(ref(weight))

    def linear(
        self, x: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor, timer: Timer
    ) -> None:
        """kernels.ops.Ops.linear."""
        if len(x) > skinny.MOST_ROWS:
            whole(x, weight, bias, out)
            return
        # Heights of 1, 2, 4, 8 and 16 rows.
        kind = (len(x) - 1).bit_length(), weight.shape, weight.dtype, bias is None
        way = self._fastest.known(kind)
        if way is None and not _captured(x):
            ways = SINGLE if len(x) == 1 else SOME
            way = self._fastest.measure(kind, ways, self._timed(x, weight, bias, out, timer))
        (way or whole)(x, weight, bias, out)

    def _timed(
        self, x: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor, timer: Timer
    ) -> Callable[[Way], float]:
        """How long a way takes with all matrices that are known of the weight's shape."""
        known = self._matrices.get((weight.shape, weight.dtype), ())
        matrices = [matrix for one in known if (matrix := one()) is not None] or [weight]

        def seconds(way: Way) -> float:
            def work() -> None:
                for matrix in matrices:
                    way(x, matrix, bias, out)

            return timer(work)

        return seconds


def _captured(x: Tensor) -> bool:
    """Whether what is launched now is only written down, by whomever."""
    return x.is_cuda and torch.cuda.is_current_stream_capturing()
