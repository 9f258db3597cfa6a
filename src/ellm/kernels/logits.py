"""Rows of logits in plain PyTorch: draw a token, and say how likely tokens are.

A draw is made in whole numbers.  No sum depends on its order then, so every backend and device
gives the same token for the same logits, parameters and random number, whatever else it computes.

    logit / temperature ─ depth ─ min_p ─ top_k ─ top_p ─ weights in the order of ids ─ token
                            └ how far below the row's largest, in 2**-24 octaves, cut short

A token's weight is 2**40 × 2**-depth, by a polynomial in 32-bit numbers; below 2**-40 it is zero.
A NaN counts as minus infinity, and what is larger than LARGEST as that; a row with nothing left
gives token 0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ellm.kernels.ops import Changes, Temp
from ellm.kernels.scratch import Scratch

OCTAVE = 2**24
DEEPEST = 63 * OCTAVE
LARGEST = 1e30
_SCALE = 1.44269504 * OCTAVE
# 2**-x = c0 - x (c1 - x (c2 - …)) on [0, 1] within 1.3e-7 of itself, in 2**-31, never rising.
_LAST, *_BEFORE = (2036727, 19791210, 118771735, 515791228, 1488515800, 2**31)
_BLOCK_ELEMENTS = 2**18


@dataclass(frozen=True, slots=True)
class Room(Temp):
    """For a block of B rows over a vocabulary of V.

    work           [B, V] float32: logits
    depth, ranked  [B, V] int32: as they stand, and sorted
    part, weight   [B, V] int64
    mask           [B, V] bool
    """

    work: Tensor
    depth: Tensor
    ranked: Tensor
    part: Tensor
    weight: Tensor
    mask: Tensor

    @classmethod
    def take(cls, scratch: Scratch, rows: int, width: int, elements: int = _BLOCK_ELEMENTS) -> Room:
        """At least one row, and as many more as `elements` numbers make."""
        shape = min(rows, max(1, elements // width)), width
        return cls(
            work=scratch.take(shape, torch.float32),
            depth=scratch.take(shape, torch.int32),
            ranked=scratch.take(shape, torch.int32),
            part=scratch.take(shape, torch.int64),
            weight=scratch.take(shape, torch.int64),
            mask=scratch.take(shape, torch.bool),
        )

    def of(self, rows: int) -> Room:
        """The first `rows` rows."""
        return Room(
            self.work[:rows],
            self.depth[:rows],
            self.ranked[:rows],
            self.part[:rows],
            self.weight[:rows],
            self.mask[:rows],
        )


def sample(x: Tensor, how: Tensor, changes: Changes, out: Tensor, room: Room) -> None:
    """kernels.ops.Ops.sample."""
    starts = changes.starts.tolist()
    for begin in range(0, len(x), len(room.work)):
        rows = slice(begin, begin + len(room.work))
        block = room.of(len(x[rows]))
        block.work.copy_(x[rows])
        for line, first, last in zip(block.work, starts[begin:], starts[begin + 1 :], strict=False):
            if first < last:
                line[changes.ids[first:last].to(x.device)] = changes.values[first:last]
        _sample(how[rows], out[rows], block)


def score(x: Tensor, targets: Tensor, values: Tensor, ids: Tensor, room: Room) -> None:
    """kernels.ops.Ops.score."""
    for row in (targets >= 0).nonzero()[:, 0].tolist():
        line, target = room.work[0].copy_(x[row]), targets[row]
        _repair(line)
        if float(line.max()) < -LARGEST:
            line.fill_(-math.inf)[0] = 0.0
        torch.log_softmax(line, -1, out=line)
        values[row, 0] = line[target]
        ids[row, 0] = torch.gt(line, line[target], out=room.mask[0]).sum() + 1
        best = values[row, 1:], ids[row, 1:]
        torch.topk(line, len(values[row]) - 1, out=best)


def _repair(x: Tensor) -> Tensor:
    return x.nan_to_num_(nan=-math.inf, posinf=LARGEST, neginf=-math.inf).clamp_(max=LARGEST)


def _sample(how: Tensor, out: Tensor, room: Room) -> None:
    """`room.work` holds the logits."""
    greedy = how[:, :1] == 0
    temperature = how[:, :1].float().masked_fill_(greedy, 1.0).to(room.work.device)
    work = _repair(room.work.div_(temperature))
    peak, chosen = work.max(-1, keepdim=True)
    if not greedy.all():
        drawn = _draw(work, peak, how, room)
        chosen = torch.where(greedy.to(work.device), chosen, drawn)
    out.copy_(chosen.masked_fill_(peak < -LARGEST, 0)[:, 0])


def _draw(work: Tensor, peak: Tensor, how: Tensor, room: Room) -> Tensor:
    """A token for each row [B, 1]."""
    below = torch.sub(peak.clamp(min=-LARGEST), work, out=work)
    depth = room.depth.copy_(below.mul_(_SCALE).clamp_(max=DEEPEST))
    limit = _limit(depth, how, room)
    weight = _weigh(depth, room)
    weight.masked_fill_(torch.gt(depth, limit, out=room.mask), 0).cumsum_(-1)
    points = (weight[:, -1:].double() * how[:, 4:].to(work.device)).long()
    return torch.searchsorted(weight, points, right=True)


def _limit(depth: Tensor, how: Tensor, room: Room) -> Tensor:
    """The greatest depth [B, 1] that is let through."""
    width = depth.shape[-1]
    limit, top_k = how[:, 1:2].int().to(depth.device), how[:, 2:3].long()
    few, top_p = (top_k > 0) & (top_k < width), how[:, 3:4]
    if not few.any() and not (top_p < 1).any():
        return limit
    ranked = _sorted(depth, room)
    last = ranked.gather(-1, torch.where(few, top_k, width).sub_(1).to(depth.device))
    limit = torch.minimum(limit, last)
    weight = _weigh(ranked, room)
    weight.masked_fill_(torch.gt(ranked, limit, out=room.mask), 0).cumsum_(-1)
    whole = weight[:, -1:]
    needed = (whole.double() * top_p.to(depth.device)).long().clamp_(min=1)
    place = torch.searchsorted(weight, torch.minimum(needed, whole))
    return ranked.gather(-1, place)


def _sorted(depth: Tensor, room: Room) -> Tensor:
    if depth.is_cuda:
        torch.sort(depth, dim=-1, out=(room.ranked, room.part))
    else:
        # numpy sorts bare values about ten times faster than torch values with indices.
        room.ranked.copy_(depth).numpy().sort()
    return room.ranked


def _weigh(depth: Tensor, room: Room) -> Tensor:
    """The weights of tokens this deep, never more for deeper ones."""
    part = torch.bitwise_and(depth, OCTAVE - 1, out=room.part)
    weight = room.weight.fill_(_LAST)
    for coefficient in _BEFORE:
        weight.mul_(part).bitwise_right_shift_(24).neg_().add_(coefficient)
    octaves = torch.bitwise_right_shift(depth, 24, out=part)
    return weight.bitwise_left_shift_(9).bitwise_right_shift_(octaves)
