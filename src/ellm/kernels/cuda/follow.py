"""Tokens that the step before has chosen, put where they are awaited."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

_BLOCK = 256


@triton.jit(do_not_specialize=["count"])
def _follow(ids: tl.tensor, answers: tl.tensor, count: tl.tensor, BLOCK: tl.constexpr) -> None:
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    token = tl.load(ids + place, mask=place < count, other=0)
    awaited = token < 0
    known = tl.load(answers + tl.where(awaited, -1 - token, 0), mask=awaited, other=0)
    tl.store(ids + place, known, mask=awaited)


def follow(ids: Tensor, answers: Tensor) -> None:
    """kernels.ops.Ops.follow."""
    _follow[(triton.cdiv(len(ids), _BLOCK),)](ids, answers, len(ids), BLOCK=_BLOCK)
