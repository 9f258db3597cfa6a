"""The best that a cache of so many blocks could do on the same requests."""

from __future__ import annotations

import heapq
import math
from collections import OrderedDict, defaultdict
from collections.abc import Sequence

from blocks import Turn


def whole(turn: Turn, size: int) -> tuple[int, ...]:
    """The blocks that can be shared: whole ones, and never the last token of a prompt."""
    return turn.blocks[: (turn.prompt - 1) // size]


def lru(turns: Sequence[Turn], size: int, capacity: int) -> float:
    """Share of prompt tokens found in a cache of `capacity` blocks, least recently used out.

    A request finds the blocks of its beginning up to the first that is missing, then has all of
    its blocks there, and the blocks of its answer, which nobody else has.
    """
    cache: OrderedDict[object, None] = OrderedDict()
    found = 0
    for number, turn in enumerate(turns):
        found += size * _leading(cache, whole(turn, size))
        answer = range(turn.output // size)
        # The end of a prompt goes before its beginning, which more requests share.
        keys = [*turn.blocks, *((number, part) for part in answer)]
        for key in reversed(keys):
            cache[key] = None
            cache.move_to_end(key)
        while len(cache) > capacity:
            cache.popitem(last=False)
    return found / sum(turn.prompt for turn in turns)


def belady(turns: Sequence[Turn], size: int, capacity: int) -> float:
    """As `lru`, but what is used again latest, or never, goes: nobody can know that."""
    uses: dict[int, list[int]] = defaultdict(list)
    for number, turn in enumerate(turns):
        for block in turn.blocks:
            uses[block].append(number)
    for numbers in uses.values():
        numbers.reverse()
    cache: dict[int, float] = {}
    heap: list[tuple[float, int]] = []
    found = 0
    for turn in turns:
        found += size * _leading(cache, whole(turn, size))
        for block in turn.blocks:
            uses[block].pop()
            following = uses[block][-1] if uses[block] else math.inf
            cache[block] = following
            heapq.heappush(heap, (-following, block))
        while len(cache) > capacity:
            following, block = heapq.heappop(heap)
            if cache.get(block) == -following:
                del cache[block]
    return found / sum(turn.prompt for turn in turns)


def _leading(cache: object, blocks: Sequence[int]) -> int:
    count = 0
    for block in blocks:
        if block not in cache:  # type: ignore[operator]
            break
        count += 1
    return count
