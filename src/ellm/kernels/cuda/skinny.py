"""Products of few rows, which take as long as the matrix takes to be read.

Each program makes some numbers of the output, from whole rows of the matrix: many small programs
keep more reads under way than the tiles of a product of many rows.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

MOST_ROWS = 16


@triton.jit
def _one(
    x: tl.tensor,
    weight: tl.tensor,
    bias: tl.tensor,
    out: tl.tensor,
    outs: tl.tensor,
    width: tl.tensor,
    weight_row: tl.tensor,
    BIASED: tl.constexpr,
    OUTS: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """Of a single row: sums in ordinary registers, brought together at the end."""
    mine = tl.program_id(0) * OUTS + tl.arange(0, OUTS)
    column = tl.arange(0, BLOCK)
    lines = weight + mine.to(tl.int64)[:, None] * weight_row
    total = tl.zeros([OUTS, BLOCK], tl.float32)
    for first in range(0, width, BLOCK):
        at = first + column
        inside = (mine < outs)[:, None] & (at < width)[None, :]
        line = tl.load(lines + at[None, :], mask=inside, other=0.0).to(tl.float32)
        row = tl.load(x + at, mask=at < width, other=0.0).to(tl.float32)
        total += line * row[None, :]
    answer = tl.sum(total, 1)
    if BIASED:
        answer += tl.load(bias + mine, mask=mine < outs, other=0.0).to(tl.float32)
    tl.store(out + mine, answer.to(out.dtype.element_ty), mask=mine < outs)


@triton.jit(do_not_specialize=["rows"])
def _few(
    x: tl.tensor,
    weight: tl.tensor,
    bias: tl.tensor,
    out: tl.tensor,
    rows: tl.tensor,
    outs: tl.tensor,
    width: tl.tensor,
    x_row: tl.tensor,
    weight_row: tl.tensor,
    out_row: tl.tensor,
    BIASED: tl.constexpr,
    ROWS: tl.constexpr,
    OUTS: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """Of up to `ROWS` rows, by tensor cores: the matrix is the side that has many rows."""
    mine = tl.program_id(0) * OUTS + tl.arange(0, OUTS)
    token = tl.arange(0, ROWS)
    column = tl.arange(0, BLOCK)
    lines = weight + mine.to(tl.int64)[:, None] * weight_row
    total = tl.zeros([OUTS, ROWS], tl.float32)
    for first in range(0, width, BLOCK):
        at = first + column
        there = (at < width)[None, :]
        line = tl.load(lines + at[None, :], mask=(mine < outs)[:, None] & there, other=0.0)
        places = x + token[:, None] * x_row + at[None, :]
        some = tl.load(places, mask=(token < rows)[:, None] & there, other=0.0)
        total = tl.dot(line, tl.trans(some), total, input_precision="ieee")
    if BIASED:
        total += tl.load(bias + mine, mask=mine < outs, other=0.0).to(tl.float32)[:, None]
    to = out + token[None, :] * out_row + mine[:, None]
    inside = (mine < outs)[:, None] & (token < rows)[None, :]
    tl.store(to, total.to(out.dtype.element_ty), mask=inside)


def one(x: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor) -> None:
    """kernels.ops.Ops.linear of one row."""
    assert len(x) == 1, x.shape
    assert x.stride(1) == weight.stride(1) == out.stride(1) == 1
    outs, width = weight.shape
    _one[(triton.cdiv(outs, 4),)](
        x,
        weight,
        weight if bias is None else bias,
        out,
        outs,
        width,
        weight.stride(0),
        BIASED=bias is not None,
        OUTS=4,
        BLOCK=1024,
        num_warps=4,
    )


def few(x: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor, each: int) -> None:
    """kernels.ops.Ops.linear of up to `MOST_ROWS` rows; `each` numbers of the output a program."""
    assert len(x) <= MOST_ROWS, x.shape
    assert x.stride(1) == weight.stride(1) == out.stride(1) == 1
    outs, width = weight.shape
    _few[(triton.cdiv(outs, each),)](
        x,
        weight,
        weight if bias is None else bias,
        out,
        len(x),
        outs,
        width,
        x.stride(0),
        weight.stride(0),
        out.stride(0),
        BIASED=bias is not None,
        ROWS=MOST_ROWS,
        OUTS=each,
        # As much of the matrix is under way either way.
        BLOCK=4096 // each,
        num_warps=4,
        num_stages=5,
    )
