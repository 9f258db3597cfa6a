"""Address slots of ended sequences, some of them still mapped."""

from __future__ import annotations

import heapq
from bisect import bisect_left, insort
from collections import OrderedDict
from collections.abc import Collection


class SlotShelf:
    """Free slots by number: cold ones, and warm ones with room for some tokens mapped.

        unmapped ─▶ in use ─▶ mapped and available ─▶ in use again, or unmapped

    Reuse is best fit and reclaiming least recently used (eLLM's slot states, arXiv 2506.15155).
    """

    def __init__(self, slots: int) -> None:
        self._cold = list(range(slots))
        self._rooms: OrderedDict[int, int] = OrderedDict()
        self._sizes: list[tuple[int, int]] = []

    def __len__(self) -> int:
        """Free slots of both kinds."""
        return len(self._cold) + len(self._rooms)

    @property
    def rooms(self) -> Collection[int]:
        """The room of every warm slot."""
        return self._rooms.values()

    def put_cold(self, slot: int) -> None:
        heapq.heappush(self._cold, slot)

    def put_warm(self, slot: int, room: int) -> None:
        """`slot` ended a moment ago, and has chunks for `room` tokens."""
        self._rooms[slot] = room
        insort(self._sizes, (room, slot))

    def take(self, tokens: int) -> tuple[int, int] | None:
        """A slot and its room: the smallest that fits `tokens`, else the largest; None for none.

        Tokens 0 ask for a cold one, if there is any.
        """
        if self._sizes and (tokens or not self._cold):
            index = min(bisect_left(self._sizes, (tokens, -1)), len(self._sizes) - 1)
            room, slot = self._sizes.pop(index)
            del self._rooms[slot]
            return slot, room
        return (heapq.heappop(self._cold), 0) if self._cold else None

    def oldest(self) -> int | None:
        """The warm slot that ended longest ago, taken off the shelf."""
        if not self._rooms:
            return None
        slot, room = self._rooms.popitem(last=False)
        del self._sizes[bisect_left(self._sizes, (room, slot))]
        return slot
