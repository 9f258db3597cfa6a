"""Least squares in a few unknowns that may not be negative."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from operator import mul

# Unknowns enter and leave the active set in finitely many moves; rounding alone could make it go
# round in circles, and then any of the points on the circle will do.
MOST_MOVES = 64
TOLERANCE = 1e-12


def nonnegative(
    matrix: Sequence[Sequence[float]], vector: Sequence[float], start: Sequence[float]
) -> list[float]:
    """The x ≥ 0 that minimises ½ x·Mx - v·x for a symmetric positive definite M.

    Lawson and Hanson's active set (Solving Least Squares Problems, 1974, chapter 23), begun from
    the non-negative `start`: one solve if the same unknowns stay positive.
    """
    span = range(len(vector))
    # With a unit diagonal the unknowns are of comparable size, whatever their units.
    scale = [1 / sqrt(matrix[i][i]) for i in span]
    rows = [
        [value * own * other for value, other in zip(row, scale, strict=True)]
        for row, own in zip(matrix, scale, strict=True)
    ]
    wanted = list(map(mul, vector, scale))
    least = TOLERANCE * max(map(abs, wanted))
    x = [start[i] / scale[i] for i in span]
    free = [i for i in span if x[i] > 0]
    for _ in range(MOST_MOVES):
        if len(free) == len(span):
            target = _solve(rows, wanted)
        else:
            target = _solve([[rows[i][j] for j in free] for i in free], [wanted[i] for i in free])
        if all(value > 0 for value in target):
            for i, value in zip(free, target, strict=True):
                x[i] = value
            pull, entering = _strongest_pull(rows, wanted, x, free)
            if pull <= least:
                break
            free = sorted([*free, entering])
        else:
            free = _advance(x, free, target)
    return list(map(mul, x, scale))


def _strongest_pull(
    rows: list[list[float]], wanted: list[float], x: list[float], free: list[int]
) -> tuple[float, int]:
    """The unknown held at zero that would rise fastest, and how fast."""
    best, entering = 0.0, -1
    for i, row in enumerate(rows):
        if i not in free:
            pull = wanted[i] - sum(map(mul, row, x))
            if pull > best:
                best, entering = pull, i
    return best, entering


def _advance(x: list[float], free: list[int], target: list[float]) -> list[int]:
    """Go towards `target` until an unknown is zero; those that stay free."""
    steps = [
        (x[i] / (x[i] - value), i) for i, value in zip(free, target, strict=True) if value <= 0
    ]
    step, blocked = min(steps)
    for i, value in zip(free, target, strict=True):
        x[i] = max(0.0, x[i] + step * (value - x[i]))
    x[blocked] = 0.0
    return [i for i in free if x[i] > 0]


def _solve(rows: list[list[float]], vector: list[float]) -> list[float]:
    """By Cholesky's factors.  A pivot that rounding has eaten is kept away from zero."""
    lower: list[list[float]] = []
    inverse: list[float] = []
    x: list[float] = []
    for row, value in zip(rows, vector, strict=True):
        factor: list[float] = []
        # `map` ends with the shorter one: a row's factors so far.
        for entry, other, inner in zip(row, lower, inverse, strict=False):
            factor.append((entry - sum(map(mul, factor, other))) * inner)
        pivot = sqrt(max(row[len(factor)] - sum(map(mul, factor, factor)), TOLERANCE))
        x.append((value - sum(map(mul, factor, x))) / pivot)
        factor.append(pivot)
        lower.append(factor)
        inverse.append(1 / pivot)
    for i in reversed(range(len(x))):
        x[i] *= inverse[i]
        for j, entry in enumerate(lower[i][:i]):
            x[j] -= entry * x[i]
    return x
