"""Norms over the last axis, and the sum that goes before one."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _norm(
    x: tl.tensor,
    added: tl.tensor,
    weight: tl.tensor,
    bias: tl.tensor,
    out: tl.tensor,
    width: tl.tensor,
    eps: tl.tensor,
    x_row: tl.tensor,
    x_head: tl.tensor,
    added_row: tl.tensor,
    out_row: tl.tensor,
    out_head: tl.tensor,
    ADDED: tl.constexpr,
    CENTRED: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    row = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    column = tl.arange(0, BLOCK)
    inside = column < width
    place = x + row * x_row + head * x_head + column
    wide = tl.load(place, mask=inside, other=0.0).to(tl.float32)
    if ADDED:
        more = tl.load(added + row * added_row + column, mask=inside, other=0.0).to(tl.float32)
        summed = (wide + more).to(x.dtype.element_ty)
        tl.store(place, summed, mask=inside)
        wide = summed.to(tl.float32)
    if CENTRED:
        wide = tl.where(inside, wide - tl.sum(wide, 0) / width, 0.0)
    wide = wide * tl.rsqrt(tl.sum(wide * wide, 0) / width + eps)
    scale = tl.load(weight + column, mask=inside, other=0.0).to(tl.float32)
    if CENTRED:
        answer = wide * scale + tl.load(bias + column, mask=inside, other=0.0).to(tl.float32)
    else:
        # Rounded before it is scaled, as transformers does.
        answer = wide.to(x.dtype.element_ty).to(tl.float32) * scale
    to = out + row * out_row + head * out_head + column
    tl.store(to, answer.to(out.dtype.element_ty), mask=inside)


def norm(
    x: Tensor, weight: Tensor, bias: Tensor | None, eps: float, out: Tensor, added: Tensor | None
) -> None:
    """kernels.ops.Ops.layer_norm with a bias, rms_norm without one."""
    width = x.shape[-1]
    heads = x.shape[1] if x.dim() == 3 else 1
    block = triton.next_power_of_2(width)
    _norm[(len(x), heads)](
        x,
        x if added is None else added,
        weight,
        weight if bias is None else bias,
        out,
        width,
        eps,
        x.stride(0),
        x.stride(1) if heads > 1 else 0,
        0 if added is None else added.stride(0),
        out.stride(0),
        out.stride(1) if heads > 1 else 0,
        ADDED=added is not None,
        CENTRED=bias is not None,
        BLOCK=block,
        num_warps=max(1, min(16, block // 512)),
    )
