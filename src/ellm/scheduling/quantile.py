"""A quantile of a stream of numbers, followed without keeping them."""

from __future__ import annotations

RATE = 0.05


class Quantile:
    """`value` is what a share of `share` of the recent positive numbers does not exceed.

    It moves by a small factor with every number, up `share` and down `1 - share` of `RATE`, so
    that it rests where the moves cancel out.
    """

    __slots__ = ("share", "value")

    def __init__(self, share: float, start: float) -> None:
        self.share = share
        self.value = start

    def observe(self, number: float) -> None:
        step = self.share if number > self.value else self.share - 1
        self.value *= 1 + RATE * step
