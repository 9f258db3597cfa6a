"""Attention of one query a sequence: the keys are cut into parts, whose answers are then combined.

    grid      (sequence, key head, part); the G query heads of a key head share what it reads
    part      answer [D] for each head, and the logarithm of the sum of its weights
    combined  Σ 2**(log - largest log) × answer, over Σ 2**(log - largest log)

How many parts there may be depends on how many sequences there are, and not on their lengths: so a
captured step serves other lengths.  A part without keys ends at once.  Source: Flash-Decoding
(https://pytorch.org/blog/flash-decoding/) and FlashAttention (arXiv 2205.14135), section 3.1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from ellm.kernels.cuda.table import ENTRY
from ellm.kernels.heights import height
from ellm.kernels.ops import Dims
from ellm.kernels.scratch import Scratch

# Programs that keep the memory of a large GPU busy: some eight for each of 132 processors.
_PROGRAMS = 1024
_FEWEST_PARTS, _MOST_PARTS = 8, 64
# Tokens that a part has at least, where there are programs enough.
_LEAST = 512
# Sequences served at once: bounds the room for parts.
AT_ONCE = 512
_EVERYTHING = 2**31 - 1


@triton.jit
def _part_size(
    seen: tl.tensor, parts: tl.tensor, least: tl.tensor, BLOCK: tl.constexpr
) -> tl.tensor:
    """Tokens of each part of so many."""
    return tl.maximum(tl.cdiv(tl.cdiv(seen, parts), BLOCK) * BLOCK, least)


@triton.jit
def _rows(
    table: tl.tensor,
    place: tl.tensor,
    at: tl.tensor,
    there: tl.tensor,
    span: tl.tensor,
    PAGED: tl.constexpr,
) -> tl.tensor:
    """Of the arena, in which tokens `at` are."""
    if PAGED:
        rows = tl.load(table + place + at // span, mask=there, other=0) + at % span
    else:
        rows = place + at
    return rows


@triton.jit
def _fold(
    query: tl.tensor,
    key: tl.tensor,
    value: tl.tensor,
    there: tl.tensor,
    scale: tl.tensor,
    largest: tl.tensor,
    total: tl.tensor,
    answer: tl.tensor,
) -> tl.tensor:
    """Take a block of keys and values into what is known: some of them are `there`."""
    score = tl.dot(query, tl.trans(key), input_precision="ieee") * scale
    score = tl.where(there[None, :], score, float("-inf"))
    peak = tl.maximum(largest, tl.max(score, 1))
    weight = tl.exp2(score - peak[:, None])
    fade = tl.exp2(largest - peak)
    more = tl.dot(weight.to(value.dtype), value, input_precision="ieee")
    return peak, total * fade + tl.sum(weight, 1), answer * fade[:, None] + more


@triton.jit(do_not_specialize=["offset", "parts", "least", "window", "span"])
def _attend(
    queries: tl.tensor,
    address: tl.tensor,
    table: tl.tensor,
    answers: tl.tensor,
    logs: tl.tensor,
    offset: tl.tensor,
    parts: tl.tensor,
    least: tl.tensor,
    window: tl.tensor,
    span: tl.tensor,
    scale: tl.tensor,
    query_row: tl.tensor,
    plane_row: tl.tensor,
    ENTRY: tl.constexpr,
    PAGED: tl.constexpr,
    KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK_G: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    sequence = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    part = tl.program_id(2)
    entry = table + (offset + sequence) * ENTRY
    row = tl.load(entry)
    place = tl.load(entry + 1)
    length = tl.load(entry + 2).to(tl.int32)
    size = _part_size(tl.minimum(length, window), parts, least, BLOCK)
    begin = tl.maximum(length - window, 0) + part * size
    end = tl.minimum(begin + size, length)
    if begin >= end:
        return
    member = tl.arange(0, BLOCK_G)
    column = tl.arange(0, BLOCK_D)
    token = tl.arange(0, BLOCK)
    ours = (member < GROUP)[:, None] & (column < WIDTH)[None, :]
    heads = head * GROUP + member
    asked = queries + row * query_row + heads[:, None] * WIDTH + column[None, :]
    query = tl.load(asked, mask=ours, other=0.0)
    planes = tl.multiple_of(address.to(tl.pointer_type(queries.dtype.element_ty)), 16)
    largest = tl.full([BLOCK_G], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_G], tl.float32)
    answer = tl.zeros([BLOCK_G, BLOCK_D], tl.float32)
    for first in range(begin, end, BLOCK):
        at = first + token
        there = at < end
        rows = _rows(table, place, at, there, span, PAGED)
        keys = (planes + rows * plane_row + head * WIDTH)[:, None] + column[None, :]
        inside = there[:, None] & (column < WIDTH)[None, :]
        key = tl.load(keys, mask=inside, other=0.0)
        value = tl.load(keys + KV_HEADS * WIDTH, mask=inside, other=0.0)
        largest, total, answer = _fold(query, key, value, there, scale, largest, total, answer)
    at_head = (sequence * KV_HEADS * GROUP + heads) * parts + part
    to = answers + at_head[:, None] * WIDTH + column[None, :]
    tl.store(to, answer / total[:, None], mask=ours)
    tl.store(logs + at_head, largest + tl.log2(total), mask=member < GROUP)


@triton.jit(do_not_specialize=["offset", "parts", "least", "window"])
def _combine(
    answers: tl.tensor,
    logs: tl.tensor,
    table: tl.tensor,
    out: tl.tensor,
    offset: tl.tensor,
    parts: tl.tensor,
    least: tl.tensor,
    window: tl.tensor,
    out_row: tl.tensor,
    ENTRY: tl.constexpr,
    HEADS: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_P: tl.constexpr,
) -> None:
    sequence = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    entry = table + (offset + sequence) * ENTRY
    row = tl.load(entry)
    length = tl.load(entry + 2).to(tl.int32)
    if length == 0:
        return
    seen = tl.minimum(length, window)
    size = _part_size(seen, parts, least, BLOCK)
    part = tl.arange(0, BLOCK_P)
    column = tl.arange(0, BLOCK_D)
    used = part < tl.cdiv(seen, size)
    at = (sequence * HEADS + head) * parts + part
    log = tl.load(logs + at, mask=used, other=float("-inf"))
    weight = tl.exp2(log - tl.max(log, 0))
    inside = used[:, None] & (column < WIDTH)[None, :]
    answer = tl.load(answers + at[:, None] * WIDTH + column[None, :], mask=inside, other=0.0)
    whole = tl.sum(answer * weight[:, None], 0) / tl.sum(weight, 0)
    to = out + row * out_row + head * WIDTH + column
    tl.store(to, whole.to(out.dtype.element_ty), mask=column < WIDTH)


@dataclass(frozen=True, slots=True)
class Parts:
    """Room for answers [places, D] and logarithms [places], float32; a place is a head's part."""

    answers: Tensor
    logs: Tensor

    @classmethod
    def take(cls, scratch: Scratch, dims: Dims, rows: int) -> Parts:
        """Never less for more rows."""
        rows = min(rows, AT_ONCE)
        parts = max(min(_MOST_PARTS * rows, _PROGRAMS // dims.kv_heads), _FEWEST_PARTS * rows)
        places = parts * dims.heads
        return cls(
            answers=scratch.take((places, dims.head_dim), torch.float32),
            logs=scratch.take((places,), torch.float32),
        )


def part_count(rows: int, kv_heads: int) -> int:
    """Into how many parts the keys of each of so many sequences may be cut.

    With as many rows of padding as a captured step has, it is the same.
    """
    wanted = _PROGRAMS // (height(rows) * kv_heads)
    return max(_FEWEST_PARTS, min(_MOST_PARTS, wanted))


def attend(
    queries: Tensor,
    planes: Tensor,
    table: Tensor,
    out: Tensor,
    parts: Parts,
    *,
    rows: int,
    window: int | None,
    span: int | None,
) -> None:
    """The first `rows` entries of a table, whose sequences lie in pages of `span` or in one run.

    `queries` and `out` are [T, heads, D], of which the rows that the table names are read and
    written; entries of no length are left out.
    """
    for first in range(0, rows, AT_ONCE):
        some = range(first, min(first + AT_ONCE, rows))
        _some(queries, planes, table, out, parts, some, window, span)


def _some(
    queries: Tensor,
    planes: Tensor,
    table: Tensor,
    out: Tensor,
    room: Parts,
    some: range,
    window: int | None,
    span: int | None,
) -> None:
    _, heads, width = queries.shape
    kv_heads, rows = planes.shape[2], len(some)
    parts = part_count(rows, kv_heads)
    assert rows * heads * parts <= len(room.logs), (rows, heads, parts, len(room.logs))
    assert queries.stride(1) == out.stride(1) == width, (queries.stride(), out.stride())
    block_d = max(16, triton.next_power_of_2(width))
    block = 64 if block_d <= 128 else 32
    least = _LEAST if height(rows) * kv_heads >= _PROGRAMS else block
    cut = (some.start, parts, least, window or _EVERYTHING)
    widths = {"ENTRY": ENTRY, "WIDTH": width, "BLOCK": block, "BLOCK_D": block_d, "num_warps": 4}
    _attend[(rows, kv_heads, parts)](
        queries,
        planes.data_ptr(),  # as a number: see rows.py
        table,
        room.answers,
        room.logs,
        *cut,
        span or 1,
        math.log2(math.e) / math.sqrt(width),
        queries.stride(0),
        planes.stride(0),
        PAGED=span is not None,
        KV_HEADS=kv_heads,
        GROUP=heads // kv_heads,
        BLOCK_G=max(16, triton.next_power_of_2(heads // kv_heads)),
        # One more where the numbers of pages must be there before keys are asked for.
        num_stages=3 if span is None else 4,
        **widths,
    )
    _combine[(rows, heads)](
        room.answers,
        room.logs,
        table,
        out,
        *cut,
        out.stride(0),
        HEADS=heads,
        BLOCK_P=triton.next_power_of_2(parts),
        **widths,
    )
