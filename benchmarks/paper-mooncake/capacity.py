"""What a cache of so many tokens would find in the whole trace, were that all it did."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from ellm.sim.workload.item import BLOCK_TOKENS, Item

# Tokens: about what the devices of a node hold beside the weights, a node with 1 TB, 16 such nodes,
# and what Mooncake says comes near to all.
CAPACITIES = (1_000_000, 3_000_000, 10_000_000, 25_000_000, 50_000_000, None)


def found(items: Sequence[Item], capacity: int | None) -> float:
    """The share of all prompt tokens that are in a cache of `capacity` tokens, None for any.

    Blocks leave it least recently used first, requests come one after another, and only whole
    blocks count.
    """
    most = None if capacity is None else capacity // BLOCK_TOKENS
    cache: OrderedDict[int, None] = OrderedDict()
    shared = 0
    for item in items:
        whole = item.blocks[: item.prompt_tokens // BLOCK_TOKENS]
        for block in whole:
            if block not in cache:
                break
            shared += BLOCK_TOKENS
        for block in reversed(whole):  # beginnings stay longest
            cache[block] = None
            cache.move_to_end(block)
        while most is not None and len(cache) > most:
            cache.popitem(last=False)
    return shared / sum(item.prompt_tokens for item in items)


def curve(items: Sequence[Item]) -> list[dict[str, Any]]:
    """By capacity."""
    return [{"tokens": tokens, "found": round(found(items, tokens), 4)} for tokens in CAPACITIES]
