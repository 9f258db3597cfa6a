"""The words users type: sizes, counts and sampling parameters, right and wrong."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ellm.core.config import MemoryConfig, SchedulerConfig
from ellm.core.errors import ConfigError, EllmError, RequestError
from ellm.core.layers import KvTable
from ellm.core.sampling import SamplingParams
from ellm.core.units import ceil_div, format_bytes, parse_bytes, parse_count, round_up


@pytest.mark.parametrize(
    ("text", "count"),
    [("4GiB", 4 << 30), ("512M", 512 << 20), ("1.5g", 3 << 29), (4096, 4096), ("64 KiB", 65536)],
)
def test_sizes(text: str | int, count: int) -> None:
    assert parse_bytes(text) == count


@pytest.mark.parametrize(
    ("text", "count"), [("32K", 32768), ("25.6k", 25600), ("2048", 2048), (7, 7), ("1m", 10**6)]
)
def test_counts(text: str | int, count: int) -> None:
    assert parse_count(text) == count


@pytest.mark.parametrize("text", ["", "four", "-1", "4XB", "1e9", "nan"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="cannot read"):
        parse_bytes(text)
    with pytest.raises(ConfigError, match="cannot read"):
        parse_count(text)


@given(st.integers(0, 2**50))
def test_formatted_sizes_stay_within_one_percent(count: int) -> None:
    again = parse_bytes(format_bytes(count).replace(" ", ""))
    assert abs(again - count) <= max(1, count // 100)


@given(st.integers(0, 10**9), st.integers(1, 10**6))
def test_rounding(value: int, by: int) -> None:
    assert ceil_div(value, by) == math.ceil(value / by) or value > 2**53
    assert round_up(value, by) % by == 0
    assert 0 <= round_up(value, by) - value < by


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("n", 0),
        ("n", 10**9),
        ("temperature", -0.1),
        ("temperature", math.nan),
        ("temperature", math.inf),
        ("temperature", "hot"),
        ("temperature", True),
        ("top_k", -2),
        ("top_k", 1.5),
        ("top_p", 0),
        ("top_p", 1.1),
        ("min_p", -1),
        ("repetition_penalty", 0),
        ("presence_penalty", 3),
        ("frequency_penalty", math.nan),
        ("seed", 2**64),
        ("seed", "x"),
        ("max_tokens", 0),
        ("max_tokens", 10**12),
        ("min_tokens", -1),
        ("logprobs", -1),
        ("logprobs", 10**6),
        ("prompt_logprobs", 1.0),
        ("stop", [""]),
        ("stop", ["a"] * 65),
        ("stop_token_ids", [-1]),
        ("stop_token_ids", list(range(65))),
        ("logit_bias", {1: 101.0}),
        ("logit_bias", {-1: 1.0}),
        ("logit_bias", {"x": 1.0}),
    ],
)
def test_wrong_sampling_parameters_are_named(field: str, value: Any) -> None:
    with pytest.raises(RequestError, match=field) as caught:
        SamplingParams(**{field: value})
    assert caught.value.param == field


def test_parameters_that_disagree() -> None:
    with pytest.raises(RequestError, match="min_tokens"):
        SamplingParams(max_tokens=3, min_tokens=4)
    with pytest.raises(RequestError, match="detokenize"):
        SamplingParams(stop="x", detokenize=False)


def test_one_stop_string_is_a_list_of_one() -> None:
    assert SamplingParams(stop="end").stop == ("end",)
    assert SamplingParams(stop=None, stop_token_ids=None).stop_token_ids == ()


def test_settings_that_make_no_sense_are_refused() -> None:
    for wrong in ({"max_num_seqs": 0}, {"max_num_batched_tokens": 0}, {"max_num_queued_reqs": -1}):
        with pytest.raises(ConfigError, match="--max-num"):
            SchedulerConfig(**wrong)
    with pytest.raises(ConfigError, match="power of two"):
        MemoryConfig(chunk_bytes=100_000)
    with pytest.raises(EllmError):
        MemoryConfig(block_size=0)


@given(st.lists(st.integers(0, 999), min_size=1, max_size=9), st.integers(1, 7), st.data())
def test_runs_of_a_table_are_its_rows(starts: list[int], span: int, data: st.DataObject) -> None:
    table = KvTable(tuple(1000 * s for s in starts), span)
    last = data.draw(st.integers(0, span * len(starts)))
    first = data.draw(st.integers(0, last))
    rows = [row for low, high in table.runs(first, last) for row in range(low, high)]
    assert rows == [table.row(token) for token in range(first, last)]
