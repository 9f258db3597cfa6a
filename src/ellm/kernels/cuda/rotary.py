"""Rotary positions: angles once a step; in every layer a rotation, and the store that follows."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

# Heads that one program takes.
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


@triton.jit(do_not_specialize=["count"])
def _rotate(
    qkv: tl.tensor,
    cos: tl.tensor,
    sin: tl.tensor,
    address: tl.tensor,
    rows: tl.tensor,
    count: tl.tensor,
    heads: tl.tensor,
    kv_heads: tl.tensor,
    half: tl.tensor,
    width: tl.tensor,
    qkv_row: tl.tensor,
    plane_row: tl.tensor,
    HEADS: tl.constexpr,
    HALF: tl.constexpr,
    REST: tl.constexpr,
) -> None:
    """Queries go back to where they were, keys and values to the planes.

    `REST` numbers or fewer of each head are not rotated.
    """
    token = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1) * HEADS + tl.arange(0, HEADS)
    pair = tl.arange(0, HALF)
    inside = (head < heads + 2 * kv_heads)[:, None] & (pair < half)[None, :]
    angle = token * half + pair
    right = tl.load(cos + angle, mask=pair < half, other=0.0).to(tl.float32)[None, :]
    up = tl.load(sin + angle, mask=pair < half, other=0.0).to(tl.float32)[None, :]
    begin = qkv + token * qkv_row + head[:, None] * width
    first = tl.load(begin + pair[None, :], mask=inside, other=0.0).to(tl.float32)
    second = tl.load(begin + half + pair[None, :], mask=inside, other=0.0).to(tl.float32)
    # The first product is rounded, as where each is an operation of its own.
    along = (first * right).to(qkv.dtype.element_ty).to(tl.float32) - second * up
    across = (second * right).to(qkv.dtype.element_ty).to(tl.float32) + first * up
    turned = (head < heads + kv_heads)[:, None]
    along = tl.where(turned, along, first).to(qkv.dtype.element_ty)
    across = tl.where(turned, across, second).to(qkv.dtype.element_ty)
    asked = inside & (head < heads)[:, None]
    tl.store(begin + pair[None, :], along, mask=asked)
    tl.store(begin + half + pair[None, :], across, mask=asked)
    if token >= count:
        return
    row = tl.load(rows + token).to(tl.int64)
    if row < 0:  # a row of padding
        return
    planes = tl.multiple_of(address.to(tl.pointer_type(qkv.dtype.element_ty)), 16)
    to = planes + row * plane_row + (head - heads)[:, None] * width
    kept = ((head >= heads) & (head < heads + 2 * kv_heads))[:, None]
    tl.store(to + pair[None, :], along, mask=inside & kept)
    tl.store(to + half + pair[None, :], across, mask=inside & kept)
    if REST > 0:
        column = 2 * half + tl.arange(0, REST)[None, :]
        plain = tl.load(begin + column, mask=kept & (column < width), other=0.0)
        tl.store(to + column, plain, mask=kept & (column < width))


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


def rotate_and_store(planes: Tensor, rows: Tensor, qkv: Tensor, cos: Tensor, sin: Tensor) -> None:
    """kernels.ops.Ops.store_kv with a turn.

    The address of the planes is passed as a number: see rows.py.
    """
    tokens, every, width = qkv.shape
    kv_heads, half = planes.shape[2], cos.shape[-1]
    assert qkv.stride(1) == width, qkv.stride()
    rest = width - 2 * half
    _rotate[(tokens, triton.cdiv(every, _HEADS))](
        qkv,
        cos,
        sin,
        planes.data_ptr(),
        rows,
        len(rows),
        every - 2 * kv_heads,
        kv_heads,
        half,
        width,
        qkv.stride(0),
        planes.stride(0),
        HEADS=_HEADS,
        HALF=triton.next_power_of_2(half),
        REST=triton.next_power_of_2(rest) if rest else 0,
        num_warps=4,
    )
