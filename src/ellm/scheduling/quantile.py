"""A quantile of a stream of numbers, followed without keeping them."""

from __future__ import annotations

from bisect import insort

RATE = 0.05
# So many numbers are kept, and their own quantile taken, before it moves by small factors only:
# from a start that was far off it would otherwise take hundreds to arrive.
FEW = 32


class Quantile:
    """`value` is what a share of `share` of the recent positive numbers does not exceed.

    After the first few it moves by a small factor with every number, up `share` and down
    `1 - share` of `RATE`, so that it rests where the moves cancel out.  It is `start` before any.
    """

    __slots__ = ("_first", "share", "value")

    def __init__(self, share: float, start: float) -> None:
        self.share = share
        self.value = start
        self._first: list[float] = []

    def observe(self, number: float) -> None:
        if len(self._first) < FEW:
            insort(self._first, number)
            self.value = self._first[round(self.share * (len(self._first) - 1))]
            return
        step = self.share if number > self.value else self.share - 1
        self.value *= 1 + RATE * step
