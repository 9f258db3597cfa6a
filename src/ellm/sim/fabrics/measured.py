"""Times that were measured at some sizes, and what they say of the sizes between."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Measured:
    """`seconds[i]` for a message of `sizes[i]` bytes; sizes rise, seconds do not fall."""

    sizes: tuple[float, ...]
    seconds: tuple[float, ...]

    def at(self, size: float) -> float:
        """Linear in the size between two points, proportional beyond the last, and never less
        than the first."""
        if size <= self.sizes[0]:
            return self.seconds[0]
        if size > self.sizes[-1]:
            return self.seconds[-1] * size / self.sizes[-1]
        above = bisect_left(self.sizes, size)
        if size == self.sizes[above]:
            return self.seconds[above]
        left, right = self.sizes[above - 1], self.sizes[above]
        part = (size - left) / (right - left)
        return self.seconds[above - 1] + part * (self.seconds[above] - self.seconds[above - 1])
