"""What a step costs and how soon it is wanted, as numbers and as people type them."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ellm.core.errors import ConfigError
from ellm.core.load import StepLoad
from ellm.core.objectives import Objectives
from ellm.core.units import parse_objective, parse_seconds


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("500ms", 0.5),
        ("0.5s", 0.5),
        ("2m", 120),
        ("1h", 3600),
        (0.5, 0.5),
        (" 3 S", 3),
        ("1e-3", 1e-3),
    ],
)
def test_times(text: str | float, seconds: float) -> None:
    assert parse_seconds(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "soon", "-1s", "5d", math.nan, math.inf, "1 0s"])
def test_what_is_no_time_is_refused(text: Any) -> None:
    with pytest.raises(ConfigError, match="cannot read"):
        parse_seconds(text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("0", "above 0, not 0"),
        ("0.0s", "above 0"),
        ("0ms", "above 0, not 0ms"),
        ("50", "write 50ms or 50s"),
        ("soon", "cannot read"),
    ],
)
def test_an_objective_is_typed_with_its_unit(text: str, said: str) -> None:
    assert parse_objective("50ms") == pytest.approx(0.05)
    with pytest.raises(ConfigError, match=said):
        parse_objective(text)


@given(st.floats(0, 1e6))
def test_a_plain_number_is_seconds(seconds: float) -> None:
    assert parse_seconds(seconds) == pytest.approx(seconds)


@pytest.mark.parametrize("value", [0, -1, math.nan, math.inf])
@pytest.mark.parametrize("name", ["ttft", "tpot"])
def test_an_objective_is_a_positive_time(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=f"{name.upper()} objective must be more than 0"):
        Objectives(**{name: value})


def test_a_request_overrides_what_it_names() -> None:
    engine = Objectives(ttft=1.0, tpot=0.1)
    assert engine.overridden(None) == engine
    assert engine.overridden(Objectives(tpot=0.2)) == Objectives(ttft=1.0, tpot=0.2)
    assert engine.overridden(Objectives(ttft=3.0)) == Objectives(ttft=3.0, tpot=0.1)
    assert Objectives().overridden(Objectives()) == Objectives()


@given(st.lists(st.tuples(st.integers(1, 40), st.integers(0, 60)), max_size=5))
def test_a_load_counts_every_pair_of_causal_attention(parts: list[tuple[int, int]]) -> None:
    load = StepLoad()
    pairs = 0
    for tokens, computed in parts:
        load = load.with_sequence(tokens, computed + tokens)
        pairs += sum(position + 1 for position in range(computed, computed + tokens))
    assert load == StepLoad(
        tokens=sum(tokens for tokens, _ in parts),
        attention=pairs,
        kv_tokens=sum(tokens + computed for tokens, computed in parts),
        sequences=len(parts),
    )
