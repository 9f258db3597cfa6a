"""The least work that a trace makes, however it is scheduled."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from ellm.core.units import ceil_div
from ellm.sim.workload.item import Item

# Into how many parts a trace is cut to ask what is still to do when the rest of it begins.
_PARTS = 16


@dataclass(frozen=True, slots=True)
class Work:
    """What an engine's step loads (core/load.py) add up to at least.

    `private` counts tokens of KV that a sequence shares with nobody, once for each step that reads
    them.
    """

    tokens: float = 0
    pairs: float = 0
    kv_tokens: float = 0
    sequences: float = 0
    private: float = 0

    def __add__(self, other: Work) -> Work:
        return Work(
            self.tokens + other.tokens,
            self.pairs + other.pairs,
            self.kv_tokens + other.kv_tokens,
            self.sequences + other.sequences,
            self.private + other.private,
        )


@dataclass(frozen=True, slots=True)
class Ask:
    """A request by what it costs.

    Of its prompt `known` tokens may have been computed for a request before it, and `common` for
    any other request.  At least one is always computed.
    """

    arrival: float
    prompt: int
    output: int
    known: int = 0
    common: int = 0

    @property
    def length(self) -> int:
        """Tokens that are computed or cached in the end: nothing is computed of the last one."""
        return self.prompt + self.output - 1

    def work(self, window: int | None = None) -> Work:
        """What is left when `known` tokens are; a `window` bounds what attention sees and reads.

        A step is taken for each token of the answer, and reads all that is before it.
        """
        return Work(
            tokens=self.length - self.known,
            pairs=_seen(self.length, window) - _seen(self.known, window),
            kv_tokens=_read(self.prompt, self.length, window),
            sequences=self.output,
            private=_read(self.prompt - self.common, self.length - self.common, None),
        )


def _seen(tokens: int, window: int | None) -> int:
    """Pairs of each of the first `tokens` tokens and what it sees, itself among it."""
    if window is None or tokens <= window:
        return tokens * (tokens + 1) // 2
    return window * (window + 1) // 2 + (tokens - window) * window


def _read(first: int, last: int, window: int | None) -> int:
    """The sum of all lengths from `first` to `last`; no more than `window` + 1 of each is read."""
    if window is None:
        return (first + last) * (last - first + 1) // 2
    bound = window + 1
    below = _read(first, min(last, bound), None) if first <= bound else 0
    return below + bound * max(0, last - max(first - 1, bound))


@dataclass(frozen=True)
class Demand:
    """Requests in order of arrival; those an engine refuses are left out.

    `began` is when the first came, refused or not.
    """

    asks: Sequence[Ask]
    began: float = 0.0
    _sums: dict[int | None, list[tuple[float, Work]]] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, items: Sequence[Item], context: int, shares: bool) -> Demand:
        """`context` tokens at most are served; `shares` says whether prompts that begin alike may
        share what is computed of them."""
        served = [item for item in items if item.prompt_tokens + item.output_tokens <= context]
        known = list(_shared(served)) if shares else [(0, 0)] * len(served)
        asks = [
            Ask(item.arrival, item.prompt_tokens, item.output_tokens, *each)
            for item, each in zip(served, known, strict=True)
        ]
        return cls(asks, items[0].arrival if items else 0.0)

    @property
    def total(self) -> Work:
        return self.remaining(None)[0][1]

    def remaining(self, window: int | None) -> list[tuple[float, Work]]:
        """Seconds since the beginning, and the work of all that comes from then on.  The first
        has the work of all."""
        if window not in self._sums:
            self._sums[window] = list(self._remaining(window))
        return self._sums[window]

    def _remaining(self, window: int | None) -> Iterator[tuple[float, Work]]:
        total, part = Work(), max(1, ceil_div(len(self.asks), _PARTS))
        found = []
        for number in reversed(range(len(self.asks))):
            ask = self.asks[number]
            total += ask.work(window)
            if number % part == 0:
                found.append((ask.arrival - self.began, total))
        yield from reversed(found or [(0.0, total)])


def _shared(items: Sequence[Item]) -> Iterator[tuple[int, int]]:
    """For each item how many tokens of its prompt an earlier one may have had, and how many any
    other.

    Blocks make a tree, in which items that begin alike go the same way for a while.
    """
    places: dict[tuple[int, int], int] = {}  # of a block after the place of what is before it
    users = [0]
    ways, earlier = [], []
    for item in items:
        way, place, known = [], 0, 0
        for block in item.blocks:
            step = (place, block)
            if step not in places:
                places[step] = len(users)
                users.append(0)
            place = places[step]
            known += users[place] > 0
            users[place] += 1
            way.append(place)
        ways.append(way)
        earlier.append(known)
    for item, way, before in zip(items, ways, earlier, strict=True):
        other = sum(users[place] > 1 for place in way)
        yield _tokens(item, before), _tokens(item, other)


def _tokens(item: Item, blocks: int) -> int:
    """At most so many that its first `blocks` stand for.  A prompt's last is always computed."""
    return min(item.prompt_tokens - 1, math.ceil(blocks * item.block_tokens))
