"""What a cache of blocks would have found: the least recently used, and one that knows the future.

A request finds the blocks at its beginning up to the first that is not there.  Blocks are numbered
such that equal numbers are equal beginnings.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Container, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush

Blocks = Sequence[int]


def numbered(prompts: Sequence[Sequence[int]], size: int) -> list[list[int]]:
    """The blocks of `size` tokens of every prompt that can be found: the last token never can."""
    numbers: dict[tuple[int, tuple[int, ...]], int] = {}
    requests = []
    for prompt in prompts:
        blocks: list[int] = []
        for end in range(size, len(prompt), size):
            before = blocks[-1] if blocks else -1
            key = (before, tuple(prompt[end - size : end]))
            blocks.append(numbers.setdefault(key, len(numbers)))
        requests.append(blocks)
    return requests


def least_recently_used(requests: Sequence[Blocks], capacity: int) -> int:
    """Blocks found by requests that come one after another, and hold nothing while they run."""
    cache: OrderedDict[int, None] = OrderedDict()
    found = 0
    for blocks in requests:
        found += _leading(blocks, cache)
        for block in reversed(blocks):  # beginnings stay longest
            cache[block] = None
            cache.move_to_end(block)
        while len(cache) > capacity:
            cache.popitem(last=False)
    return found


def clairvoyant(requests: Sequence[Blocks], capacity: int) -> int:
    """As above, but the block goes that will not be wanted for longest (Belady)."""
    uses: dict[int, list[int]] = {}
    for number in range(len(requests) - 1, -1, -1):
        for block in requests[number]:
            uses.setdefault(block, []).append(number)
    following: dict[int, int] = {}
    latest: list[tuple[int, int]] = []
    found = 0
    for blocks in requests:
        found += _leading(blocks, following)
        for block in blocks:
            uses[block].pop()
            following[block] = uses[block][-1] if uses[block] else len(requests)
            heappush(latest, (-following[block], -block))
        while len(following) > capacity:
            use, block = heappop(latest)
            if following.get(-block) == -use:
                del following[-block]
    return found


@dataclass(frozen=True, slots=True)
class Event:
    """A request has started, or ended; `own` blocks beside its prompt's are its answer."""

    request: int
    starts: bool
    own: int = 0


def alongside(requests: Sequence[Blocks], events: Sequence[Event], capacity: int) -> int:
    """Blocks found least recently used, where those of requests that run cannot go.

    Blocks that run and blocks that are kept are `capacity` together; running ones alone may be
    more.
    """
    running: Counter[int] = Counter()
    kept: OrderedDict[int, None] = OrderedDict()
    found = own = 0
    for event in events:
        blocks = requests[event.request]
        if event.starts:
            found += _leading(blocks, running, kept)
            own += event.own
            for block in blocks:
                running[block] += 1
                kept.pop(block, None)
        else:
            own -= event.own
            for block in reversed(blocks):
                running[block] -= 1
                if not running[block]:
                    del running[block]
                    kept[block] = None
        while kept and len(kept) + len(running) + own > capacity:
            kept.popitem(last=False)
    return found


def _leading(blocks: Blocks, *caches: Container[int]) -> int:
    """How many blocks there are before the first that is in none of the caches."""
    for count, block in enumerate(blocks):
        if not any(block in cache for cache in caches):
            return count
    return len(blocks)
