"""Least squares over the logarithms of a few constants (Levenberg 1944, Marquardt 1963)."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

Values = Mapping[str, float]
Residuals = Callable[[Values], NDArray[np.float64]]

ROUNDS = 30
# By how much a constant is changed to see what it does, and changes at most in a round.
PROBE, STRIDE = 0.02, 0.4
# What a round must take off the sum of squares, of itself.
GAIN = 1e-6


def fitted(residuals: Residuals, start: Values, most: Values) -> dict[str, float]:
    """Where the sum of squares is least near `start`, no constant above what `most` says."""
    values = dict(start)
    now, damping = residuals(values), 1e-3
    for _ in range(ROUNDS):
        columns = []
        for name in values:
            more, less = (_moved(values, {name: by}, {}) for by in (PROBE, -PROBE))
            columns.append((residuals(more) - residuals(less)) / (2 * PROBE))
        jacobian = np.array(columns).T
        found = _better(residuals, values, now, jacobian, damping, most)
        if found is None:
            break
        gained = now @ now - found[1] @ found[1]
        values, now, damping = found
        if gained < GAIN * (now @ now):
            break
    return values


def _better(
    residuals: Residuals,
    values: Values,
    now: NDArray[np.float64],
    jacobian: NDArray[np.float64],
    damping: float,
    most: Values,
) -> tuple[dict[str, float], NDArray[np.float64], float] | None:
    """Values with a smaller sum, what they leave, and the damping for the next round."""
    normal, slope = jacobian.T @ jacobian, -jacobian.T @ now
    for _ in range(6):
        step = np.linalg.solve(normal + damping * np.diag(np.diag(normal) + 1e-9), slope)
        by = dict(zip(values, np.clip(step, -STRIDE, STRIDE), strict=True))
        tried = _moved(values, by, most)
        left = residuals(tried)
        if left @ left < now @ now:
            return tried, left, max(damping / 5, 1e-6)
        damping *= 6
    return None


def _moved(values: Values, by: Values, most: Values) -> dict[str, float]:
    """Each value times e to the power of what it is moved by."""
    moved = {name: value * float(np.exp(by.get(name, 0.0))) for name, value in values.items()}
    return {name: min(value, most.get(name, value)) for name, value in moved.items()}
