"""Which free bytes to put side by side so that they make one allocation.

    chunk edges   ┆         ┆         ┆         ┆         ┆
    free block        ├─────┼─────────┼─────────┼────┤
                        lead  ╰───── body ─────╯ trail

A stitch is made of whole chunks, but for its first, which may begin late, and its last, which may
end early.  So of every free block the body can be anywhere in a stitch, its lead only at the
beginning and its trail only at the end.
"""

from __future__ import annotations

from collections.abc import Sequence

from ellm.core.units import ceil_div, round_up
from ellm.memory.blocks import Block

Piece = tuple[int, int]


def body(block: Block, chunk_bytes: int) -> tuple[int, int]:
    """First and last slot (half open) of the whole chunks in a block."""
    first = ceil_div(block.start, chunk_bytes)
    return first, max(first, block.stop // chunk_bytes)


def gather(blocks: Sequence[Block], need: int, chunk_bytes: int) -> tuple[list[Piece], int]:
    """Pieces of free blocks that make up `need` bytes in order, or how many chunks they lack.

        need      ├ rest ┼──────────── whole chunks ───────────┤
        pieces    ├ lead ┼─── body ───┤├─ body ─┤├ part of one ┤

    The rest is the tightest lead or trail that holds it (a trail comes last), or else takes one
    chunk more.  Whole chunks come from the largest blocks, so that there are few pieces.
    """
    whole, rest = divmod(need, chunk_bytes)
    partial = _partial(blocks, rest, chunk_bytes) if rest else None
    left = need
    if partial is not None:
        left -= rest
    elif rest:
        whole += 1
    pieces: list[Piece] = []
    bodies = (body(block, chunk_bytes) for block in blocks)
    for first, last in sorted(bodies, key=lambda b: (b[0] - b[1], b[0])):
        count = min(whole, last - first)
        if not count:
            break
        start = first * chunk_bytes
        pieces.append((start, start + min(left, count * chunk_bytes)))
        whole -= count
        left -= count * chunk_bytes
    if whole:
        return [], whole
    if partial is not None:
        pieces.insert(0 if partial[1] % chunk_bytes == 0 else len(pieces), partial)
    return pieces, 0


def _partial(blocks: Sequence[Block], rest: int, chunk_bytes: int) -> Piece | None:
    """`rest` bytes of the shortest lead or trail that has so many."""
    best: tuple[int, Piece] | None = None
    for block in blocks:
        edge = round_up(block.start, chunk_bytes)
        lead = edge - block.start if edge <= block.stop else 0
        trail = block.stop % chunk_bytes
        if lead >= rest and (best is None or lead < best[0]):
            best = lead, (edge - rest, edge)
        if rest <= trail <= block.size and (best is None or trail < best[0]):
            start = block.stop - trail
            best = trail, (start, start + rest)
    return None if best is None else best[1]
