"""Percentiles lie where they should."""

from __future__ import annotations

import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ellm.obs.spread import Spread, percentile

finite = st.floats(0, 1e6)


@given(st.lists(finite, min_size=1))
def test_percentiles_lie_between_the_extremes_and_agree_with_the_median(
    values: list[float],
) -> None:
    assert percentile(values, 0.0) == min(values)
    assert percentile(values, 1.0) == max(values)
    assert percentile(values, 0.5) == pytest.approx(statistics.median(values))
    assert percentile(values, 0.9) <= percentile(values, 0.99)


def test_percentiles_interpolate_linearly() -> None:
    assert percentile([10.0, 20.0], 0.25) == 12.5
    assert percentile([], 0.5) == 0.0


def test_a_spread_is_in_milliseconds() -> None:
    assert Spread.of([0.1, 0.2, 0.3]) == Spread(
        pytest.approx(200),
        pytest.approx(200),
        pytest.approx(280),
        pytest.approx(290),
        pytest.approx(298),
    )
    assert Spread.of([]) == Spread(0, 0, 0, 0, 0)
