"""What a step takes by given coefficients."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ellm.core.load import StepLoad
from ellm.scheduling.coefficients import KNOTS, Coefficients

SECONDS = st.sampled_from([0.0, 0.0, 1e-9, 1e-6, 1e-4, 1e-2]) | st.floats(0, 1e-3)
COEFFICIENTS = st.builds(
    Coefficients,
    slopes=st.tuples(*[SECONDS] * len(KNOTS)),
    attention=st.sampled_from([0.0, 1e-9, 1e-7]),
    kv_token=SECONDS,
    sequence=SECONDS,
    step=SECONDS,
)
LOADS = st.builds(
    StepLoad,
    tokens=st.integers(0, 10**4) | st.sampled_from(KNOTS),
    attention=st.integers(0, 10**9),
    kv_tokens=st.integers(0, 10**6),
    sequences=st.integers(0, 512),
)


def by_hand(c: Coefficients, load: StepLoad) -> float:
    """Token by token."""
    ends = (*KNOTS[1:], 10**9)
    curve = sum(
        slope * max(0, min(load.tokens, end) - start)
        for slope, start, end in zip(c.slopes, KNOTS, ends, strict=True)
    )
    others = c.attention * load.attention + c.kv_token * load.kv_tokens
    return curve + others + c.sequence * load.sequences + c.step


@given(c=COEFFICIENTS, load=LOADS)
def test_each_token_costs_what_its_interval_says(c: Coefficients, load: StepLoad) -> None:
    assert c.seconds(load) == pytest.approx(by_hand(c, load), rel=1e-9, abs=1e-15)


@given(load=LOADS)
def test_an_even_curve_is_a_line(load: StepLoad) -> None:
    c = Coefficients.even(token=2e-5, attention=1e-9, kv_token=5e-8, sequence=1e-5, step=7e-3)
    tokens, attention, kv_tokens, sequences = load
    line = 2e-5 * tokens + 1e-9 * attention + 5e-8 * kv_tokens + 1e-5 * sequences + 7e-3
    assert c.seconds(load) == pytest.approx(line)


@given(one=COEFFICIENTS, other=COEFFICIENTS, factor=st.floats(0, 100), load=LOADS)
def test_parts_add_up_and_scale(
    one: Coefficients, other: Coefficients, factor: float, load: StepLoad
) -> None:
    whole = one.seconds(load) + factor * other.seconds(load)
    assert (one + other.times(factor)).seconds(load) == pytest.approx(whole, rel=1e-9, abs=1e-15)


@given(c=COEFFICIENTS)
def test_values_are_all_there_is(c: Coefficients) -> None:
    assert Coefficients.of(c.values) == c


@given(c=COEFFICIENTS, load=LOADS, more=LOADS)
def test_more_never_costs_less(c: Coefficients, load: StepLoad, more: StepLoad) -> None:
    """To the last bit: rounding must not make a larger step cheaper."""
    for name in StepLoad._fields:
        larger = load._replace(**{name: getattr(load, name) + getattr(more, name)})
        assert c.seconds(larger) >= c.seconds(load)


@settings(max_examples=300)
@given(
    c=COEFFICIENTS,
    sequences=st.integers(0, 200),
    computed=st.integers(0, 5000),
    most=st.integers(0, 6000),
    share=st.floats(-0.1, 1.1),
    exact=st.booleans(),
    seed=st.integers(0, 2**32),
)
def test_the_largest_chunk_is_the_last_that_fits(
    c: Coefficients,
    sequences: int,
    computed: int,
    most: int,
    share: float,
    exact: bool,
    seed: int,
) -> None:
    """Also where the limit is exactly what some chunk takes."""
    load = StepLoad.of([(1, 100)] * sequences)

    def seconds(chunk: int) -> float:
        return c.seconds(load.with_sequence(chunk, computed + chunk))

    least, largest = c.seconds(load), seconds(max(most, 1))
    limit = least + share * (largest - least)
    if exact and most:
        limit = seconds(random.Random(seed).randint(1, most))
    chunk = c.largest_chunk(load, computed, most, limit)
    assert chunk == sum(seconds(tokens) <= limit for tokens in range(1, most + 1))


def test_without_a_limit_everything_fits() -> None:
    c = Coefficients.even(token=1.0, step=1.0)
    assert c.largest_chunk(StepLoad(), 10, 10**6, float("inf")) == 10**6
