"""Rotary positions: angles once a step, and a rotation of queries and keys in every layer."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

# Heads that one program turns.
_HEADS = 8


@triton.jit(do_not_specialize=["count"])
def _angles(
    positions: tl.tensor,
    frequencies: tl.tensor,
    cos: tl.tensor,
    sin: tl.tensor,
    count: tl.tensor,
    half: tl.tensor,
    scale: tl.tensor,
    HALF: tl.constexpr,
) -> None:
    row = tl.program_id(0)
    pair = tl.arange(0, HALF)
    inside = pair < half
    position = tl.load(positions + row, mask=row < count, other=0).to(tl.float32)
    angle = position * tl.load(frequencies + pair, mask=inside, other=0.0)
    place = row.to(tl.int64) * half + pair
    tl.store(cos + place, (tl.cos(angle) * scale).to(cos.dtype.element_ty), mask=inside)
    tl.store(sin + place, (tl.sin(angle) * scale).to(sin.dtype.element_ty), mask=inside)


@triton.jit
def _rotate(
    x: tl.tensor,
    cos: tl.tensor,
    sin: tl.tensor,
    heads: tl.tensor,
    half: tl.tensor,
    x_row: tl.tensor,
    x_head: tl.tensor,
    HEADS: tl.constexpr,
    HALF: tl.constexpr,
) -> None:
    row = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1) * HEADS + tl.arange(0, HEADS)
    pair = tl.arange(0, HALF)
    inside = (head < heads)[:, None] & (pair < half)[None, :]
    right = tl.load(cos + row * half + pair, mask=pair < half, other=0.0).to(tl.float32)[None, :]
    up = tl.load(sin + row * half + pair, mask=pair < half, other=0.0).to(tl.float32)[None, :]
    place = x + row * x_row + head[:, None] * x_head + pair[None, :]
    first = tl.load(place, mask=inside, other=0.0).to(tl.float32)
    second = tl.load(place + half, mask=inside, other=0.0).to(tl.float32)
    # The first product is rounded, as where each is an operation of its own.
    along = (first * right).to(x.dtype.element_ty).to(tl.float32) - second * up
    across = (second * right).to(x.dtype.element_ty).to(tl.float32) + first * up
    tl.store(place, along.to(x.dtype.element_ty), mask=inside)
    tl.store(place + half, across.to(x.dtype.element_ty), mask=inside)


def angles(positions: Tensor, frequencies: Tensor, scale: float, cos: Tensor, sin: Tensor) -> None:
    """kernels.ops.Ops.angles."""
    half = len(frequencies)
    _angles[(len(cos),)](
        positions,
        frequencies,
        cos,
        sin,
        len(positions),
        half,
        scale,
        HALF=triton.next_power_of_2(half),
        num_warps=1,
    )


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> None:
    """kernels.ops.Ops.rotary."""
    rows, heads, _ = x.shape
    half = cos.shape[-1]
    _rotate[(rows, triton.cdiv(heads, _HEADS))](
        x,
        cos,
        sin,
        heads,
        half,
        x.stride(0),
        x.stride(1),
        HEADS=_HEADS,
        HALF=triton.next_power_of_2(half),
        num_warps=4,
    )
