"""A token of each row of logits, chosen on the device, by the rules of kernels/logits.py.

    peaks ─ [digits of top_k] ─ [digits of top_p] ─ sums ─ choice
      └ each by parts of a row, that one row keeps many processors busy; the choice by rows

The host waits for nothing, and decides by its own copy of `how` which launches there are: two where
all rows are greedy.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from ellm.kernels import logits
from ellm.kernels.cuda import radix
from ellm.kernels.cuda.depth import LIMIT, depths, highest, scaled, weights
from ellm.kernels.numbers import arrive
from ellm.kernels.ops import Changes, Temp
from ellm.kernels.scratch import Scratch

# Logits of one program: of 128 threads, eight each.
_PART = 1024
# Changed logits at once: 64 rows of a vocabulary of 128 K.
_CHANGED = 2**23


@triton.jit(do_not_specialize=["parts"])
def _peaks(
    x: tl.tensor,
    how: tl.tensor,
    peaks: tl.tensor,
    places: tl.tensor,
    tallies: tl.tensor,
    width: tl.tensor,
    x_row: tl.tensor,
    parts: tl.tensor,
    TALLIES: tl.constexpr,
    GREEDY: tl.constexpr,
    PART: tl.constexpr,
) -> None:
    row = tl.program_id(0).to(tl.int64)
    part = tl.program_id(1)
    at = part * PART + tl.arange(0, PART)
    value = scaled(x + row * x_row, how + row * 5, at, width, GREEDY)
    peak = tl.max(value, 0)
    tl.store(peaks + row * parts + part, peak)
    tl.store(places + row * parts + part, tl.min(tl.where(value == peak, at, width), 0))
    if not GREEDY:  # noqa: SIM102  (known when it is compiled)
        if part == 0:
            mine = tallies + row * TALLIES + tl.arange(0, TALLIES)
            tl.store(mine, tl.zeros([TALLIES], tl.int64))


@triton.jit(do_not_specialize=["parts"])
def _sums(
    x: tl.tensor,
    how: tl.tensor,
    peaks: tl.tensor,
    slots: tl.tensor,
    tallies: tl.tensor,
    sums: tl.tensor,
    width: tl.tensor,
    x_row: tl.tensor,
    parts: tl.tensor,
    SLOTS: tl.constexpr,
    TALLIES: tl.constexpr,
    PARTS: tl.constexpr,
    PART: tl.constexpr,
) -> None:
    """The weight that is let through, of each part of a row."""
    row = tl.program_id(0).to(tl.int64)
    part = tl.program_id(1)
    how += row * 5
    if tl.load(how) == 0.0:
        return
    at = part * PART + tl.arange(0, PART)
    depth = depths(x + row * x_row, how, highest(peaks + row * parts, parts, PARTS), at, width)
    limit = radix.deepest(slots + row * SLOTS, tallies + row * TALLIES, how, width, True)
    total = tl.sum(tl.where(depth <= limit, weights(depth), 0), 0)
    tl.store(sums + row * parts + part, total)


@triton.jit(do_not_specialize=["parts"])
def _choice(
    x: tl.tensor,
    how: tl.tensor,
    peaks: tl.tensor,
    places: tl.tensor,
    slots: tl.tensor,
    tallies: tl.tensor,
    sums: tl.tensor,
    out: tl.tensor,
    width: tl.tensor,
    x_row: tl.tensor,
    parts: tl.tensor,
    SLOTS: tl.constexpr,
    TALLIES: tl.constexpr,
    GREEDY: tl.constexpr,
    PARTS: tl.constexpr,
    PART: tl.constexpr,
) -> None:
    row = tl.program_id(0).to(tl.int64)
    how += row * 5
    part = tl.arange(0, PARTS)
    there = part < parts
    heights = tl.load(peaks + row * parts + part, mask=there, other=float("-inf"))
    peak = tl.max(heights, 0)
    firsts = tl.load(places + row * parts + part, mask=there, other=0)
    token = tl.min(tl.where(there & (heights == peak), firsts, width), 0).to(tl.int64)
    if not GREEDY:  # noqa: SIM102  (known when it is compiled)
        if tl.load(how) != 0.0:
            upto = tl.cumsum(tl.load(sums + row * parts + part, mask=there, other=0), 0)
            whole = tl.max(upto, 0)
            point = (whole.to(tl.float64) * tl.load(how + 4)).to(tl.int64)
            point = tl.minimum(point, whole - 1)
            passed = upto <= point
            before = tl.max(tl.where(passed, upto, 0), 0)
            first = tl.sum(passed.to(tl.int64), 0) * PART
            at = first + tl.arange(0, PART)
            depth = depths(x + row * x_row, how, peak, at, width)
            limit = radix.deepest(slots + row * SLOTS, tallies + row * TALLIES, how, width, True)
            mass = before + tl.cumsum(tl.where(depth <= limit, weights(depth), 0), 0)
            token = first + tl.sum((mass <= point).to(tl.int64), 0)
    tl.store(out + row, tl.where(peak < -LIMIT, 0, token))


@dataclass(frozen=True, slots=True)
class Room(Temp):
    """For R rows over a vocabulary of V, in P parts.

    how        [R, 5] float64
    peaks      [R × P] float32: the largest of each part, and in `places` (int32) the first such
    sums       [R × P] int64: weights
    slots, tallies    int64: radix.py has them
    changed    [of some rows × V] float32: logits of which some are changed
    report     for one row that is scored
    """

    how: Tensor
    peaks: Tensor
    places: Tensor
    sums: Tensor
    slots: Tensor
    tallies: Tensor
    changed: Tensor
    report: logits.Room

    @classmethod
    def take(cls, scratch: Scratch, rows: int, width: int) -> Room:
        places = rows * triton.cdiv(width, _PART)
        return cls(
            how=scratch.take((rows, 5), torch.float64),
            peaks=scratch.take((places,), torch.float32),
            places=scratch.take((places,), torch.int32),
            sums=scratch.take((places,), torch.int64),
            slots=scratch.take((rows * radix.SLOTS,), torch.int64),
            tallies=scratch.take((rows * radix.TALLIES,), torch.int64),
            changed=scratch.take((max(width, min(rows * width, _CHANGED)),), torch.float32),
            report=logits.Room.take(scratch, 1, width),
        )


def sample(x: Tensor, how: Tensor, changes: Changes, out: Tensor, room: Room) -> None:
    """kernels.ops.Ops.sample."""
    rows, width = x.shape
    if not len(changes.ids):
        _sample(x, how, out, room)
        return
    starts, step = changes.starts.tolist(), len(room.changed) // width
    for begin in range(0, rows, step):
        some = slice(begin, min(begin + step, rows))
        lines = room.changed[: (some.stop - begin) * width].view(-1, width)
        lines.copy_(x[some])
        ours = slice(starts[begin], starts[some.stop])
        if ours.start < ours.stop:
            counts = changes.starts[begin : some.stop + 1].diff()
            row = torch.repeat_interleave(torch.arange(len(lines)), counts)
            places = arrive(row * width + changes.ids[ours], x.device)
            lines.view(-1).scatter_(0, places, changes.values[ours])
        _sample(lines, how[some], out[some], room)


def _sample(x: Tensor, how: Tensor, out: Tensor, room: Room) -> None:
    rows, width = x.shape
    parts = triton.cdiv(width, _PART)
    assert rows <= len(room.how), (rows, room.how.shape)
    assert rows * parts <= len(room.peaks), (rows, parts, room.peaks.shape)
    assert x.stride(1) == 1, x.stride()
    drawn = how[:, 0] != 0
    greedy, told = not bool(drawn.any()), room.how[:rows]
    if not greedy:
        told.copy_(how, non_blocking=True)
    size = width, x.stride(0), parts
    found = room.slots, room.tallies
    of_row = {"SLOTS": radix.SLOTS, "TALLIES": radix.TALLIES}
    cut = {"PART": _PART, "num_warps": 4}
    every = rows, parts
    _peaks[every](
        x,
        told,
        room.peaks,
        room.places,
        room.tallies,
        *size,
        TALLIES=radix.TALLIES,
        GREEDY=greedy,
        **cut,
    )
    cut["PARTS"] = triton.next_power_of_2(parts)
    few, most = (how[:, 2] > 0) & (how[:, 2] < width), how[:, 3] < 1
    for weighed, asked in enumerate((few, most)):
        if bool((asked & drawn).any()):
            for level in range(radix.LEVELS):
                digit = level, weighed
                radix.tally[every](
                    x, told, room.peaks, *found, *size, *digit, FIRST=level == 0, **cut
                )
    if not greedy:
        _sums[every](x, told, room.peaks, *found, room.sums, *size, **of_row, **cut)
    _choice[(rows,)](
        x,
        told,
        room.peaks,
        room.places,
        *found,
        room.sums,
        out,
        *size,
        GREEDY=greedy,
        **of_row,
        **cut,
    )
