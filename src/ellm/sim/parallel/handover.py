"""What travels between two cells that are divided differently (APEX, arXiv 2411.17651, 3.3).

A copy of a cell ends with partial sums on its devices, one for each of its tokens.  The next cell's
copies want their tokens whole on each of their devices.  With as many copies the sums are made and
spread in one collective; otherwise they are made where they are, a piece on each device, and
gathered by the next copies, which have more tokens or fewer.  A cell whose tokens are spread
anyway (experts) needs only the half on its side.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two cells: `ways` devices a copy; whether its tokens are `spread` over them."""

    copies: int
    ways: int
    spread: bool = False


@dataclass(frozen=True, slots=True)
class Handover:
    """A collective behind the one cell, over its copy's devices and tokens, and one before the
    other, over that one's; None for nothing."""

    behind: str | None
    before: str | None


def handover(one: Side, other: Side) -> Handover:
    """What brings the answer of `one` to `other`."""
    if one.copies == other.copies and not one.spread and not other.spread:
        return Handover("all_reduce" if one.ways > 1 else None, None)
    return Handover(
        "reduce_scatter" if one.ways > 1 and not one.spread else None,
        "all_gather" if other.ways > 1 and not other.spread else None,
    )
