"""Lengths and arrival times that are made up, stretched or evened out."""

from __future__ import annotations

import statistics
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ellm.core.errors import ConfigError
from ellm.sim.workload.arrivals import arrivals, evened, hastened, timed
from ellm.sim.workload.item import Item
from ellm.sim.workload.lengths import ALPACA, SHAREGPT, LogNormal, drawn, fixed

ONE = Item(3, 4)


@pytest.mark.parametrize("burstiness", [0.5, 1.0, 4.0])
def test_arrivals_have_the_asked_rate_and_spread(burstiness: float) -> None:
    times = list(arrivals(20_000, 5.0, 1, burstiness))
    gaps = [b - a for a, b in pairwise(times)]
    assert times[0] == 0.0
    assert statistics.mean(gaps) == pytest.approx(0.2, rel=0.05)
    # the coefficient of variation of a gamma distribution is 1 / sqrt(shape)
    assert statistics.stdev(gaps) / 0.2 == pytest.approx(burstiness**-0.5, rel=0.05)


def test_arrivals_repeat_under_their_seed_and_differ_under_another() -> None:
    assert list(arrivals(5, 2.0, 1)) == list(arrivals(5, 2.0, 1)) != list(arrivals(5, 2.0, 2))


def test_an_infinite_rate_sends_all_at_once() -> None:
    assert set(arrivals(5, float("inf"), 0)) == {0.0}


def test_a_schedule_keeps_the_requests() -> None:
    items = [Item(3, 4, model=1, blocks=(5,)), Item(6, 7)]
    later = timed(items, [1.0, 2.0])
    assert [item.arrival for item in later] == [1.0, 2.0]
    assert [item.arrival for item in hastened(later, 4.0)] == [0.25, 0.5]
    assert timed(hastened(later, 4.0), [0.0, 0.0]) == items


def test_one_stamp_is_spread_until_the_next() -> None:
    even = evened(timed([ONE] * 6, [0.0, 0.0, 0.0, 3.0, 3.0, 6.0]))
    assert [item.arrival for item in even] == [0.0, 1.0, 2.0, 3.0, 4.5, 6.0]
    last = evened(timed([ONE] * 3, [0.0, 4.0, 4.0]))
    assert [item.arrival for item in last] == [0.0, 4.0, 6.0]
    assert evened([ONE] * 3) == [ONE] * 3
    assert evened([]) == []


@given(st.lists(st.integers(0, 9), min_size=1))
def test_evened_times_are_in_order_and_leave_their_stamp_by_less_than_a_gap(
    stamps: list[int],
) -> None:
    stamps.sort()
    items = [Item(1 + number, 1, float(stamp)) for number, stamp in enumerate(stamps)]
    even = evened(items)
    assert [replace(item, arrival=0.0) for item in even] == [replace(i, arrival=0.0) for i in items]
    times = [item.arrival for item in even]
    assert times == sorted(times)
    assert all(stamp <= time < stamp + 10 for stamp, time in zip(stamps, times, strict=True))
    if len(set(stamps)) > 1:
        assert len(set(times)) == len(times)


def test_fixed_lengths_are_those() -> None:
    assert fixed(3, 7, 5) == [Item(7, 5)] * 3


@pytest.mark.parametrize(
    ("prompt", "output"), [SHAREGPT, ALPACA, (LogNormal(3000, 0.5), ALPACA[1])]
)
def test_drawn_lengths_have_the_means_that_are_stated(prompt: LogNormal, output: LogNormal) -> None:
    items = drawn(20_000, prompt, output, seed=0)
    for wished, found in (
        (prompt, [item.prompt_tokens for item in items]),
        (output, [item.output_tokens for item in items]),
    ):
        assert statistics.mean(found) == pytest.approx(wished.mean, rel=0.03)
        assert wished.shortest <= min(found) <= max(found) <= wished.longest
        assert len(set(found)) > 100
    assert {item.arrival for item in items} == {0.0}


def test_drawn_lengths_repeat_under_their_seed_and_differ_under_another() -> None:
    assert drawn(9, *ALPACA, seed=1) == drawn(9, *ALPACA, seed=1) != drawn(9, *ALPACA, seed=2)


def test_the_deviation_is_that_of_the_logarithm() -> None:
    lengths = drawn(20_000, LogNormal(5000, 0.25), LogNormal(5000, 1.0), seed=0)
    narrow = sorted(item.prompt_tokens for item in lengths)
    wide = sorted(item.output_tokens for item in lengths)
    # a normal distribution has 68.3 % within one deviation, from 15.9 % to 84.1 %
    for found, deviation in ((narrow, 0.25), (wide, 1.0)):
        assert found[16_827] / found[3_173] == pytest.approx(2.71828 ** (2 * deviation), rel=0.05)


@pytest.mark.parametrize(
    "wrong",
    [
        {"mean": 3.0, "shortest": 4},
        {"mean": 1024.0, "longest": 1024},
        {"mean": 9.0, "deviation": 0.0},
        {"mean": float("nan")},
        {"mean": 9.0, "shortest": 0},
    ],
)
def test_lengths_that_cannot_be_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="no lengths have a mean of"):
        LogNormal(**wrong)  # type: ignore[arg-type]
