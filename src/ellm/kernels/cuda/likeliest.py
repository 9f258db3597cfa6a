"""The likeliest token of each row of logits, by the rules of kernels/logits.py."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from ellm.kernels.logits import LARGEST

_BLOCK = 4096


@triton.jit
def _likeliest(
    x: tl.tensor,
    out: tl.tensor,
    width: tl.tensor,
    x_row: tl.tensor,
    LARGEST: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    peaks = tl.full([BLOCK], float("-inf"), tl.float32)
    places = tl.zeros([BLOCK], tl.int32)
    for begin in range(0, width, BLOCK):
        at = begin + column
        value = tl.load(x + row * x_row + at, mask=at < width, other=float("-inf")).to(tl.float32)
        value = tl.where(value != value, float("-inf"), value)
        value = tl.where(value > LARGEST, LARGEST, value)
        places = tl.where(value > peaks, at, places)
        peaks = tl.where(value > peaks, value, peaks)
    peak = tl.max(peaks, 0)
    first = tl.min(tl.where(peaks == peak, places, width), 0)
    tl.store(out + row, tl.where(peak < -LARGEST, 0, first).to(tl.int64))


def likeliest(x: Tensor, out: Tensor) -> None:
    """The first of the likeliest of each row of [R, V], into int64 [R]."""
    block = min(_BLOCK, triton.next_power_of_2(x.shape[1]))
    _likeliest[(len(x),)](
        x, out, x.shape[1], x.stride(0), LARGEST=LARGEST, BLOCK=block, num_warps=8
    )
