"""The faster of several ways to do the same, by measurement."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Generic, TypeVar

Way = TypeVar("Way")


class Fastest(Generic[Way]):
    """Of each kind of work the way that took the least when the kind was first met."""

    def __init__(self) -> None:
        self._kept: dict[Hashable, Way] = {}

    def known(self, kind: Hashable) -> Way | None:
        return self._kept.get(kind)

    def measure(self, kind: Hashable, ways: Sequence[Way], seconds: Callable[[Way], float]) -> Way:
        """Time each of the ways once, and keep one; of equals the first."""
        assert kind not in self._kept, kind
        best = self._kept[kind] = min(ways, key=seconds)
        return best
