"""Bounds: no simulation is better than what a plan could be at its best."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planner_scene import CONTEXT, prospects, requests, small_case

from ellm.core.config import MemoryMode
from ellm.core.errors import BudgetError
from ellm.core.load import StepLoad
from ellm.core.objectives import Objectives
from ellm.planner.case import Case
from ellm.planner.curve import Curve, prices, total
from ellm.planner.demand import Ask, Demand
from ellm.planner.figures import Figures
from ellm.planner.need import Need, fits
from ellm.planner.prospect import Prospect
from ellm.scheduling.coefficients import KNOTS, Coefficients
from ellm.sim.workload.item import Item

slopes = st.lists(
    st.floats(0, 1e-3, allow_subnormal=False), min_size=len(KNOTS), max_size=len(KNOTS)
)
bases = st.floats(1e-5, 1e-2)


def coefficients(values: list[float], base: float) -> Coefficients:
    return Coefficients(tuple(values), 0.0, 0.0, 0.0, base)


@given(slopes, bases, st.floats(0, 20_000))
def test_a_curve_is_what_a_step_takes(values: list[float], base: float, tokens: float) -> None:
    cost = coefficients(values, base)
    whole = Curve.of(cost)
    at = whole.at(tokens)
    below, above = math.floor(tokens), math.ceil(tokens)
    times = [cost.seconds(StepLoad(tokens=each)) for each in (below, above)]
    assert min(times) - 1e-9 <= at <= max(times) + 1e-9


@given(slopes, bases, st.floats(0, 9000), st.floats(0, 9000), st.floats(0, 1))
def test_a_hull_is_below_and_bows_down(
    values: list[float], base: float, one: float, two: float, part: float
) -> None:
    curve = Curve.of(coefficients(values, base))
    hull = curve.hull()
    between = part * one + (1 - part) * two
    chord = part * hull.at(one) + (1 - part) * hull.at(two)
    assert hull.at(one) <= curve.at(one) * (1 + 1e-9)
    assert hull.at(between) <= chord * (1 + 1e-9)
    assert hull.at(0) == pytest.approx(min(hull.at(0), curve.at(0)))


@given(slopes, bases, st.integers(2, 8), st.lists(st.integers(0, 3000), min_size=8, max_size=8))
def test_copies_take_no_less_than_their_share_at_least(
    values: list[float], base: float, copies: int, tokens: list[int]
) -> None:
    curve = Curve.of(coefficients(values, base))
    loads = tokens[:copies]
    least = curve.hull().stretched(copies).at(sum(loads))
    assert max(curve.at(each) for each in loads) >= least * (1 - 1e-9)


@given(slopes, slopes, bases, st.integers(1, 300), st.integers(0, 10**6))
@settings(max_examples=60)
def test_no_steps_are_cheaper_than_their_prices(
    one: list[float], two: list[float], base: float, seats: int, seed: int
) -> None:
    rng = random.Random(seed)
    curve = total([Curve.of(coefficients(one, base)), Curve.of(coefficients(two, 0.0)).hull()])
    steps = []
    for _ in range(rng.randint(1, 12)):
        tokens = rng.choice([1, rng.randint(1, 64), rng.randint(1, 9000)])
        steps.append((tokens, rng.randint(0, min(tokens, seats))))
    tokens, others = sum(t for t, _ in steps), sum(d for _, d in steps)
    token, other = prices(curve, lambda t: min(t, seats), tokens, others, seats)
    assert min(token, other) >= 0
    took = sum(curve.at(t) for t, _ in steps)
    assert token * tokens + other * others <= took * (1 + 1e-6)


@given(st.integers(1, 400), st.integers(1, 60), st.none() | st.integers(1, 80), st.data())
def test_work_is_counted_token_by_token(
    prompt: int, output: int, window: int | None, data: st.DataObject
) -> None:
    known = data.draw(st.integers(0, prompt - 1))
    most = math.inf if window is None else window
    work = Ask(0.0, prompt, output, known, common=known).work(window)
    computed = range(known + 1, prompt + output)
    assert work.tokens == len(computed)
    assert work.pairs == sum(min(place, most) for place in computed)
    lengths = range(prompt, prompt + output)
    assert work.kv_tokens == sum(min(length, most + 1) for length in lengths)
    assert work.private == sum(length - known for length in lengths)
    assert work.sequences == output


def test_what_others_have_computed_is_not_counted_again() -> None:
    items = [
        Item(100, 1, 0.0, None, (1, 2), 40),
        Item(100, 1, 1.0, None, (1, 3), 40),
        Item(70, 1, 2.0, None, (1, 2), 40),
        Item(5000, 1, 3.0, None, (1, 2), 40),
    ]
    asks = Demand.of(items, CONTEXT, shares=True).asks
    assert [ask.known for ask in asks] == [0, 40, 69]
    assert [ask.common for ask in asks] == [80, 40, 69]
    demand = Demand.of(items, CONTEXT, shares=False)
    assert [ask.known for ask in demand.asks] == [0, 0, 0]
    assert demand.total.tokens == 270
    later = demand.remaining(None)
    assert [start for start, _ in later] == [0, 1, 2]
    assert [work.tokens for _, work in later] == [270, 170, 70]


CASES: dict[str, dict[str, object]] = {
    "dense": {},
    "at once": {"items": requests(24, 0.0)},
    "one at a time": {"items": requests(6, 0.05)},
    "little memory": {"context": 1024, "seqs": 64, "items": requests(30, 50.0, longest=900)},
    "static": {"mode": MemoryMode.STATIC},
    "no caching": {"caching": False},
    "a tier below": {"below": 1 << 33, "items": requests(30, 50.0, longest=900)},
    "tight": {"slo": Objectives(ttft=0.2, tpot=0.02)},
    "windows": {"model": "gemma-3-27b", "device": "H100"},
    "experts": {"model": "mixtral-8x7b", "device": "H100"},
    "states": {"model": "qwen3-next-80b-a3b", "device": "H200", "weights": "fp8"},
    "latent": {"model": "kimi-k2", "device": "B200", "weights": "int4", "items": requests(8, 4.0)},
}


def picked(case: Case, most: int, count: int) -> list[Prospect]:
    """Some that fit, of all kinds."""
    fitting = [one for one in prospects(case, most) if one.at_best is not None]
    random.Random(1).shuffle(fitting)
    return fitting[:count]


@pytest.mark.parametrize("name", CASES)
def test_no_simulation_beats_its_bound(name: str) -> None:
    case = small_case(**CASES[name])  # type: ignore[arg-type]
    chosen = picked(case, 8, 6)
    assert chosen
    for prospect in chosen:
        got = Figures.of(case.simulated(prospect.plan, len(case.items)))
        assert beaten(got, prospect.bound) == [], prospect.plan


def beaten(got: Figures, bound: Figures) -> list[str]:
    """Figures that are better than they can be."""
    more = [
        name
        for name in ("output_rate", "good_rate", "met")
        if (getattr(got, name) or 0.0) > (getattr(bound, name) or 0.0) + 1e-9
    ]
    less = [
        name
        for name in ("devices", "ttft", "tpot", "e2el", "joules")
        if getattr(got, name) < getattr(bound, name) - 1e-9
    ]
    return more + less


@given(st.integers(0, 10**6))
@settings(deadline=None, max_examples=12)
def test_no_simulation_of_any_requests_beats_its_bound(seed: int) -> None:
    rng = random.Random(seed)
    items = requests(rng.randint(1, 24), rng.choice([0.0, 1.0, 20.0]), seed, rng.choice([20, 900]))
    case = small_case(items=items, seqs=rng.choice([1, 4, 64]), context=1024)
    prospect = rng.choice(picked(case, 4, 20))
    got = Figures.of(case.simulated(prospect.plan, len(items)))
    assert beaten(got, prospect.bound) == [], prospect.plan


def test_bounds_are_near_where_nothing_waits() -> None:
    case = small_case(items=requests(4, 0.05), caching=False)
    for prospect in picked(case, 4, 4):
        got = Figures.of(case.simulated(prospect.plan, 4))
        assert got.ttft == pytest.approx(prospect.bound.ttft, rel=0.05)
        assert got.tpot == pytest.approx(prospect.bound.tpot, rel=0.02)
        assert got.output_rate == pytest.approx(prospect.bound.output_rate, rel=0.02)


@pytest.mark.parametrize("mode", list(MemoryMode))
def test_arithmetic_and_engine_agree_on_what_fits(mode: MemoryMode) -> None:
    seen = set()
    for context in (512, 20_000, 60_000, 131_072):
        case = small_case(context=context, mode=mode)
        for prospect in prospects(case, 4):
            made = starts(case, prospect)
            assert made == (prospect.at_best is not None) == fits(case, prospect.plan)
            assert made == case.deployment(prospect.plan).fits()
            # What cannot fit by bytes does not by chunks, and little is lost between the two.
            need = Need.of(case, prospect.plan)
            assert not (made and need.is_too_much)
            if mode is MemoryMode.ELASTIC and not made:
                assert need.total > 0.99 * need.budget
            seen.add(made)
    assert seen == {True, False}


def starts(case: Case, prospect: Prospect) -> bool:
    try:
        return bool(case.deployment(prospect.plan).lanes())
    except BudgetError:
        return False
