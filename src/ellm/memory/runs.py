"""Whole numbers kept as runs, so that neighbours are handed out together."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator, Sequence

from ellm.core.units import round_up


def adjacent_runs(numbers: Iterable[int]) -> Iterator[tuple[int, int]]:
    """Half-open runs, in the order given: 3 4 5 9 7 8 gives (3, 6) (9, 10) (7, 9)."""
    start = stop = None
    for number in numbers:
        if number != stop:
            if start is not None and stop is not None:
                yield start, stop
            start = number
        stop = number + 1
    if start is not None and stop is not None:
        yield start, stop


class RunSet:
    """A set of whole numbers, stored as disjoint half-open runs that are never adjacent.

    0   2       5     7         11
    ├───┤       ├─────┤         ├──····      take(2) gives [5, 7): the tightest fit
    """

    __slots__ = ("_count", "_sizes", "_starts", "_stops")

    def __init__(self, start: int = 0, stop: int = 0) -> None:
        self._stops: dict[int, int] = {}
        self._starts: dict[int, int] = {}
        self._sizes: list[tuple[int, int]] = []
        self._count = 0
        if start < stop:
            self._insert(start, stop)

    def __len__(self) -> int:
        return self._count

    def runs(self) -> list[tuple[int, int]]:
        """Every run, in ascending order."""
        return sorted(self._stops.items())

    def add(self, numbers: Sequence[int]) -> None:
        """Put back numbers that are not in the set."""
        for start, stop in adjacent_runs(sorted(numbers)):
            left = self._starts.get(start)
            right = self._stops.get(stop)
            if left is not None:
                self._remove(left, start)
            if right is not None:
                self._remove(stop, right)
            self._insert(start if left is None else left, stop if right is None else right)

    def take(self, count: int, align: int = 1) -> list[int]:
        """Remove and return `count` numbers: the tightest run that holds them, else the longest.

        Ties go to the lowest run, so the same history always gives the same answer.  Where a run
        holds them from a multiple of `align`, they begin with one.
        """
        assert 0 <= count <= self._count, (count, self._count)
        if align > 1 and (aligned := self._take_aligned(count, align)):
            return aligned
        taken: list[int] = []
        while count:
            index = bisect_left(self._sizes, (count, -1))
            if index == len(self._sizes):
                index = bisect_left(self._sizes, (self._sizes[-1][0], -1))
            size, start = self._sizes[index]
            used = min(size, count)
            self._remove(start, start + size)
            if used < size:
                self._insert(start + used, start + size)
            taken += range(start, start + used)
            count -= used
        return taken

    def _take_aligned(self, count: int, align: int) -> list[int]:
        for size, start in self._sizes[bisect_left(self._sizes, (count, -1)) :]:
            first, stop = round_up(start, align), start + size
            if first + count <= stop:
                self._remove(start, stop)
                for low, high in ((start, first), (first + count, stop)):
                    if low < high:
                        self._insert(low, high)
                return list(range(first, first + count))
        return []

    def _insert(self, start: int, stop: int) -> None:
        self._stops[start] = stop
        self._starts[stop] = start
        insort(self._sizes, (stop - start, start))
        self._count += stop - start

    def _remove(self, start: int, stop: int) -> None:
        del self._stops[start], self._starts[stop]
        del self._sizes[bisect_left(self._sizes, (stop - start, start))]
        self._count -= stop - start
