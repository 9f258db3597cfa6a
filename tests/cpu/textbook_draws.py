"""Draws in whole numbers in Python, as kernels/logits.py promises them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy
import torch
from hypothesis import strategies as st

from ellm.kernels.logits import DEEPEST, OCTAVE
from ellm.kernels.ops import Changes

How = tuple[float, int, int, float, float]
Change = dict[int, float]

hows = st.tuples(
    st.sampled_from([0.0, 1e-5, 0.3, 0.8, 1.0, 2.5, 100.0]),
    st.one_of(st.just(DEEPEST), st.integers(0, DEEPEST), st.integers(0, 4 * OCTAVE)),
    st.sampled_from([0, -1, 1, 2, 5, 50, 10**9]),
    st.one_of(st.just(1.0), st.floats(1e-9, 1.0)),
    st.integers(0, 2**24 - 1).map(lambda point: point * 2.0**-24),
)
odd = st.sampled_from([math.nan, math.inf, -math.inf, 3e38, -3e38, 1e30, 0.0, -0.0, 1e-40])


def weight(depth: int) -> int:
    """2**40 × 2**-depth as the polynomial has it."""
    octaves, part = divmod(depth, OCTAVE)
    value = 2036727
    for coefficient in (19791210, 118771735, 515791228, 1488515800, 2**31):
        value = coefficient - (value * part >> 24)
    return value << 9 >> octaves


def textbook(line: Sequence[float], how: How) -> int:
    """A token as kernels/logits.py promises it; every step in float32, or in whole numbers."""
    temperature, deepest, top_k, top_p, point = how
    with numpy.errstate(all="ignore"):
        scaled = numpy.array(line, dtype=numpy.float32) / numpy.float32(temperature or 1)
        scaled = numpy.minimum(numpy.nan_to_num(scaled, nan=-math.inf, posinf=1e30), 1e30)
        # nan_to_num makes a number of minus infinity, far below everything that counts.
        peak = scaled.max()
        if peak < -1e30:
            return 0
        if temperature == 0:
            return int(scaled.argmax())
        below = (peak - scaled) * numpy.float32(1.44269504 * OCTAVE)
    depths = [int(min(one, DEEPEST)) for one in below.tolist()]
    ranked = sorted(depths)
    limit = min(deepest, ranked[top_k - 1]) if 0 < top_k < len(depths) else deepest
    whole = sum(weight(depth) for depth in depths if depth <= limit)
    if top_p < 1:
        needed, mass = min(max(1, int(float(whole) * top_p)), whole), 0
        for depth in ranked:
            mass += weight(depth)
            if mass >= needed:
                limit = depth
                break
    weights = [weight(depth) if depth <= limit else 0 for depth in depths]
    left = int(float(sum(weights)) * point)
    for token, one in enumerate(weights):
        left -= one
        if left < 0:
            return token
    raise AssertionError(left)


def changes_of(rows: Sequence[Change]) -> Changes:
    starts = [0]
    for row in rows:
        starts.append(starts[-1] + len(row))
    return Changes(
        torch.tensor(starts),
        torch.tensor([place for row in rows for place in row], dtype=torch.int64),
        torch.tensor([value for row in rows for value in row.values()], dtype=torch.float32),
    )
