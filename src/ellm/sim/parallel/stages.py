"""Which blocks a pipeline stage has."""

from __future__ import annotations


def stage_blocks(blocks: int, stages: int) -> list[tuple[int, int]]:
    """Half-open ranges of blocks, in order; the first stages have one more if it does not divide.

    The last stage has the head beside its blocks, so it is never among the longer ones.
    """
    short, longer = divmod(blocks, stages)
    ranges, first = [], 0
    for stage in range(stages):
        last = first + short + (stage < longer)
        ranges.append((first, last))
        first = last
    return ranges
