"""Least squares in a few unknowns that may not be negative."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt

# Unknowns enter and leave the active set in finitely many moves; rounding alone could make it go
# round in circles, and then any of the points on the circle will do.
MOST_MOVES = 32
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
    rows = [[matrix[i][j] * scale[i] * scale[j] for j in span] for i in span]
    wanted = [vector[i] * scale[i] for i in span]
    x = [start[i] / scale[i] for i in span]
    free = [i for i in span if x[i] > 0]
    for _ in range(MOST_MOVES):
        target = _solve([[rows[i][j] for j in free] for i in free], [wanted[i] for i in free])
        if all(value > 0 for value in target):
            for i, value in zip(free, target, strict=True):
                x[i] = value
            pull, entering = _strongest_pull(rows, wanted, x, free)
            if pull <= TOLERANCE:
                break
            free = sorted([*free, entering])
        else:
            free = _advance(x, free, target)
    return [x[i] * scale[i] for i in span]


def _strongest_pull(
    rows: list[list[float]], wanted: list[float], x: list[float], free: list[int]
) -> tuple[float, int]:
    """The unknown held at zero that would rise fastest, and how fast."""
    best, entering = 0.0, -1
    for i, row in enumerate(rows):
        if i not in free:
            pull = wanted[i] - sum(a * b for a, b in zip(row, x, strict=True))
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
    x: list[float] = []
    for i, row in enumerate(rows):
        factor: list[float] = []
        for j in range(i):
            inner = sum(factor[k] * lower[j][k] for k in range(j))
            factor.append((row[j] - inner) / lower[j][j])
        factor.append(sqrt(max(row[i] - sum(f * f for f in factor), TOLERANCE)))
        lower.append(factor)
        x.append((vector[i] - sum(factor[k] * x[k] for k in range(i))) / factor[i])
    for i in reversed(range(len(rows))):
        x[i] = (x[i] - sum(lower[k][i] * x[k] for k in range(i + 1, len(rows)))) / lower[i][i]
    return x
