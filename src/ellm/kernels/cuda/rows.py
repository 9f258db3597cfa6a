"""Rows of the arena: keys and values put where they belong, and fetched from their pages.

Kernels take the address of a plane as a number: Triton asks the driver about every pointer it is
given, and row 0 may have no memory behind it.  It is a multiple of 16: heads are of eight numbers
or a multiple, of two bytes each.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

_BLOCK = 1024


@triton.jit
def _store(
    kv: tl.tensor,
    address: tl.tensor,
    rows: tl.tensor,
    width: tl.tensor,
    kv_row: tl.tensor,
    plane_row: tl.tensor,
    BLOCK: tl.constexpr,
) -> None:
    token = tl.program_id(0).to(tl.int64)
    row = tl.load(rows + token).to(tl.int64)
    if row < 0:  # a row of padding
        return
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < width
    fresh = tl.load(kv + token * kv_row + column, mask=inside)
    planes = tl.multiple_of(address.to(tl.pointer_type(kv.dtype.element_ty)), 16)
    tl.store(planes + row * plane_row + column, fresh, mask=inside)


@triton.jit(do_not_specialize=["span"])
def _gather(
    address: tl.tensor,
    starts: tl.tensor,
    out: tl.tensor,
    span: tl.tensor,
    width: tl.tensor,
    plane_row: tl.tensor,
    BLOCK: tl.constexpr,
) -> None:
    token = tl.program_id(0).to(tl.int64)
    row = tl.load(starts + token // span).to(tl.int64) + token % span
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < width
    planes = tl.multiple_of(address.to(tl.pointer_type(out.dtype.element_ty)), 16)
    there = tl.load(planes + row * plane_row + column, mask=inside)
    tl.store(out + token * width + column, there, mask=inside)


def store(planes: Tensor, rows: Tensor, kv: Tensor) -> None:
    """kernels.ops.Ops.store_kv; rows below 0 are left out."""
    width = kv[0].numel()
    block = min(_BLOCK, triton.next_power_of_2(width))
    _store[(len(rows), triton.cdiv(width, block))](
        kv, planes.data_ptr(), rows, width, kv.stride(0), planes.stride(0), BLOCK=block
    )


def gather(planes: Tensor, starts: Tensor, span: int, out: Tensor) -> None:
    """Tokens 0 to len(out) of a sequence whose pages begin at rows `starts` (int64)."""
    width = out[0].numel()
    block = min(_BLOCK, triton.next_power_of_2(width))
    _gather[(len(out), triton.cdiv(width, block))](
        planes.data_ptr(), starts, out, span, width, planes.stride(0), BLOCK=block
    )
