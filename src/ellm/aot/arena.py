"""Where results of operations lie: one piece of memory, planned before anything runs.

Two results may lie over each other if everyone who uses the one has ended before the other is
made, whatever stream runs what.  The largest are placed first, each at the lowest place that none
it may meet has.  (Interval colouring by size, as in Pisarchyk and Lee, "Efficient Memory
Management for Deep Neural Net Inference", arXiv 2001.03288, with reachability instead of
intervals.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

ALIGNMENT = 64


@dataclass(frozen=True, slots=True)
class Result:
    """`size` bytes that operation `maker` writes and `users`, itself among them, touch."""

    maker: int
    users: frozenset[int]
    size: int


def place(results: Sequence[Result], after: Sequence[int]) -> tuple[list[int], int]:
    """An offset for each result, and the bytes of all; `after[u]` are the nodes surely after u."""
    offsets = [0] * len(results)
    placed: list[int] = []
    total = 0
    for index in sorted(range(len(results)), key=lambda one: -results[one].size):
        mine = results[index]
        taken = sorted(
            (offsets[other], offsets[other] + results[other].size)
            for other in placed
            if _may_meet(mine, results[other], after)
        )
        at = 0
        for start, stop in taken:
            if start - at >= mine.size:
                break
            at = max(at, _aligned(stop))
        offsets[index] = at
        placed.append(index)
        total = max(total, at + mine.size)
    return offsets, total


def _may_meet(one: Result, other: Result, after: Sequence[int]) -> bool:
    return not (_ends_before(one, other, after) or _ends_before(other, one, after))


def _ends_before(one: Result, other: Result, after: Sequence[int]) -> bool:
    return all(after[user] >> other.maker & 1 for user in one.users)


def _aligned(at: int) -> int:
    return -(-at // ALIGNMENT) * ALIGNMENT
