"""How many rows matrices of a step are given."""

from __future__ import annotations

from functools import lru_cache

from ellm.core.units import round_up

_BITS = 3


# Asked for every sequence of every step.
@lru_cache(maxsize=1 << 16)
def height(rows: int) -> int:
    """The next of eight heights an octave: few distinct ones, at 3 % more rows on average.

    Whatever is kept for every height that was met (a recorded step, oneDNN's code for a bfloat16
    product) stays bounded so; never fewer for more rows.
    """
    step = 1 << max(0, rows.bit_length() - _BITS - 1)
    return round_up(rows, step)
