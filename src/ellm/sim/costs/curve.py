"""A function of the number of tokens, as the coefficients of a step."""

from __future__ import annotations

from collections.abc import Callable

from ellm.scheduling.coefficients import KNOTS, Coefficients

# Beyond the last knot the slope is that of the next so many octaves.
_BEYOND = 4


def sampled(seconds: Callable[[int], float]) -> Coefficients:
    """What `seconds` says at every knot, straight lines between, and never falling.

    A step has at least one token, so the first interval begins with that.
    """
    places = (1, *KNOTS[1:], KNOTS[-1] * _BEYOND)
    values = [seconds(place) for place in places]
    slopes = tuple(
        max(0.0, values[i + 1] - values[i]) / (places[i + 1] - places[i]) for i in range(len(KNOTS))
    )
    base = max(0.0, values[0] - slopes[0])
    return Coefficients(slopes, attention=0.0, kv_token=0.0, sequence=0.0, step=base)
