"""The search: what it leaves out could not have won, and it always ends the same way."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planner_scene import prospects, requests, small_case

from ellm.core.errors import BudgetError, ConfigError
from ellm.core.objectives import Objectives
from ellm.planner import search
from ellm.planner.anatomy import anatomy
from ellm.planner.case import Case
from ellm.planner.figures import Figures, front
from ellm.planner.find import find_plan
from ellm.planner.objective import TIE, Floor, Objective, Wish
from ellm.planner.prospect import Prospect, representatives
from ellm.planner.refusals import require_reached
from ellm.planner.search import Found
from ellm.planner.verdict import gain, reason
from ellm.planner.workers import Task, Workers
from ellm.sim.parallel.plan import Plan
from ellm.sim.report import Report

SLO = Objectives(ttft=2.0, tpot=0.1)
WISHES = [
    Wish(Objective.THROUGHPUT),
    Wish(Objective.GOODPUT, SLO),
    Wish(Objective.LATENCY),
    Wish(Objective.ENERGY),
    Wish(Objective.GOODPUT, SLO, Floor(share=0.8)),
    Wish(Objective.GOODPUT, SLO, Floor(rate=2.0)),
]
positive = st.floats(0.01, 100)
figures = st.builds(
    Figures,
    devices=st.sampled_from([1, 2, 4, 8]),
    output_rate=positive,
    good_rate=st.floats(0, 5),
    met=st.floats(0, 1),
    ttft=positive,
    tpot=positive,
    e2el=positive,
    joules=positive,
)


@given(st.lists(figures, min_size=1, max_size=12))
def test_a_front_is_what_nobody_beats(points: list[Figures]) -> None:
    edge = front(points, lambda one: one)
    for one in points:
        others = [two for two in edge if two is not one]
        assert any(two.covers(one) for two in others) != any(one is two for two in edge)


@given(st.lists(figures, min_size=1, max_size=10), st.sampled_from(WISHES))
def test_the_order_is_one_of_value_then_of_price(points: list[Figures], wish: Wish) -> None:
    ranked = wish.ranked(points, lambda one: one)
    assert sorted(map(id, ranked)) == sorted(map(id, points))
    most = max(wish.value(one) for one in points)
    assert wish.value(ranked[0]) >= most * (1 - wish.tie)
    for one in points:
        if wish.value(one) >= most * (1 - wish.tie):
            assert (ranked[0].devices, ranked[0].joules) <= (one.devices, one.joules)


@given(figures, st.lists(figures, min_size=1, max_size=6), st.sampled_from(WISHES), st.randoms())
@settings(max_examples=300)
def test_who_is_hopeless_never_comes_first(
    at_best: Figures, known: list[Figures], wish: Wish, rng: random.Random
) -> None:
    if not wish.hopeless(at_best, known):
        return
    worse = [rng.choice([0.0, 0.001, 0.3]) for _ in range(7)]
    got = replace(
        at_best,
        output_rate=at_best.output_rate * (1 - worse[0]),
        good_rate=(at_best.good_rate or 0) * (1 - worse[1]),
        met=(at_best.met or 0) * (1 - worse[2]),
        ttft=at_best.ttft * (1 + worse[3]),
        tpot=at_best.tpot * (1 + worse[4]),
        e2el=at_best.e2el * (1 + worse[5]),
        joules=at_best.joules * (1 + worse[6]),
    )
    assert wish.ranked([*known, got], lambda one: one)[0] is not got


class Remembering:
    """Workers that answer what they were asked before without simulating it again."""

    def __init__(self, case: Case) -> None:
        self._workers = Workers(lambda: case, 1)
        self._reports: dict[Task, Report] = {}

    def prospects(self, plans: Sequence[Plan]) -> Iterator[Prospect]:
        return self._workers.prospects(plans)

    def reports(self, tasks: Sequence[Task]) -> Iterator[Report]:
        for task in tasks:
            if task not in self._reports:
                self._reports[task] = next(iter(self._workers.reports([task])))
            yield self._reports[task]


_known: dict[int, tuple[Case, Remembering]] = {}


def found(case: Case, wish: Wish, most: int = 4, thorough: bool = False) -> Found:
    _, workers = _known.setdefault(id(case), (case, Remembering(case)))
    return find_plan(case, wish, workers, most, thorough=thorough)  # type: ignore[arg-type]


# Twelve requests, rather more than one device can serve in time.
BUSY = small_case(items=requests(12, 6.0), seqs=8)


@pytest.mark.parametrize("wish", WISHES, ids=lambda wish: f"{wish.objective.value} {wish.floor}")
def test_bounds_never_lose_the_best_plan(wish: Wish) -> None:
    case, count = BUSY, len(BUSY.items)
    found(case, wish)
    fitting = [one.plan for one in prospects(case, 4) if one.at_best is not None]
    tasks = [Task(plan, count) for plan in fitting]
    all_of_them = [Figures.of(report) for report in _known[id(case)][1].reports(tasks)]
    thorough = found(case, wish, thorough=True)
    assert thorough.best.figures == wish.ranked(all_of_them, lambda one: one)[0]
    assert thorough.counts.halved == thorough.counts.estimated == thorough.counts.alike == 0
    # Nor anybody whom none of the others beats.
    edge = {one.axes for one in front(all_of_them, lambda one: one)}
    assert {trial.figures.axes for trial in thorough.front} == edge


def test_bounds_leave_out_what_cannot_win_where_nothing_waits() -> None:
    case = small_case(items=requests(4, 0.05))
    counts = found(case, Wish(Objective.LATENCY), thorough=True).counts
    assert counts.bounded >= 5


def test_halving_comes_near(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "FINALISTS", 3)
    monkeypatch.setattr(search, "FEWEST", 8)
    monkeypatch.setattr(search, "SHORTLIST", 10)
    case, wish = small_case(items=requests(24, 16.0), seqs=8), Wish(Objective.THROUGHPUT)
    halved, thorough = found(case, wish), found(case, wish, thorough=True)
    counts = halved.counts
    assert counts.estimated > 0
    assert counts.halved > 0
    assert counts.short > 0
    assert counts.simulated < thorough.counts.simulated
    assert wish.value(halved.best.figures) >= 0.97 * wish.value(thorough.best.figures)


@pytest.mark.parametrize("thorough", [False, True])
def test_every_plan_is_accounted_for(thorough: bool) -> None:
    result = found(BUSY, Wish(Objective.GOODPUT, SLO), thorough=thorough)
    counts = result.counts
    parts = (counts.unfit, counts.alike, counts.bounded, counts.estimated, counts.halved)
    assert sum(parts) + counts.simulated == len(prospects(BUSY, 4))
    assert len({trial.plan for trial in result.trials}) == counts.simulated


def test_any_number_of_processes_finds_the_same() -> None:
    results = []
    for jobs in (1, 2, 3):
        with Workers(partial(small_case, items=requests(12, 8.0)), jobs) as workers:
            wish = Wish(Objective.GOODPUT, SLO)
            results.append(find_plan(small_case(items=requests(12, 8.0)), wish, workers, 2))
    for other in results[1:]:
        assert [trial.plan for trial in other.trials] == [one.plan for one in results[0].trials]
        assert [one.report for one in other.trials] == [one.report for one in results[0].trials]
        assert other.counts == results[0].counts


def test_an_error_in_a_process_is_told() -> None:
    def broken() -> Case:
        raise ConfigError("no such case")

    with pytest.raises(ConfigError, match="no such case"):
        Workers(broken, 1)
    with (
        Workers(partial(complain, "no such case"), 2) as workers,
        pytest.raises(ConfigError, match="no such case"),
    ):
        list(workers.prospects([one.plan for one in prospects(small_case(), 1)]))
    with pytest.raises(ConfigError, match="--jobs must be at least 1, not 0"):
        Workers(broken, 0)


def complain(what: str) -> Case:
    raise ConfigError(what)


def test_plans_of_which_another_is_as_good_are_left_out() -> None:
    case = small_case("kimi-k2", "B200", weights="int4", items=requests(4, 4.0))
    fitting = [one for one in prospects(case, 8) if one.at_best is not None]
    kept = representatives(fitting)
    assert 0 < len(kept) < len(fitting) / 2
    chosen = {one.plan for one in kept}
    for one in fitting:
        if one.plan not in chosen:
            # Somebody of the same kind is no slower at any load, but for a hundredth.
            assert any(
                (other.plan.replicas, other.plan.stages, other.ranks)
                == (one.plan.replicas, one.plan.stages, one.ranks)
                and all(a <= 1.01 * b for a, b in zip(other.pace, one.pace, strict=True))
                for other in kept
            )


def test_the_fewest_devices_that_reach_a_floor_are_found() -> None:
    result = found(BUSY, Wish(Objective.GOODPUT, SLO, Floor(share=0.9)))
    reached = [one.figures for one in result.trials if (one.figures.met or 0) >= 0.9]
    assert reached
    assert result.best.figures.devices == min(one.devices for one in reached)
    rest = [one for one in reached if one.devices == result.best.figures.devices]
    assert result.best.figures.joules == min(one.joules for one in rest)


def test_whoever_serves_all_in_time_on_fewer_devices_comes_first() -> None:
    """Not the plan on which the last answer ends a little sooner."""
    case = small_case(device="H100", items=requests(20, 2.0), slo=Objectives(ttft=2.0, tpot=0.1))
    result = found(case, Wish(Objective.GOODPUT, case.slo))
    everybody = [one.figures for one in result.trials if one.figures.met == 1.0]
    assert len({one.devices for one in everybody}) > 1
    assert result.best.figures.devices == min(one.devices for one in everybody)


def test_the_reason_is_in_the_numbers() -> None:
    for wish in WISHES:
        result = found(BUSY, wish)
        assert result.second is not None
        assert result.usual is not None
        said = reason(BUSY, wish, result.best, result.second)
        assert any(letter.isdigit() for letter in said), said
        assert "x " in gain(wish, result.best, result.usual)


def test_a_step_is_taken_apart() -> None:
    for trial in found(BUSY, Wish(Objective.THROUGHPUT)).trials:
        step = anatomy(BUSY, trial)
        parts = (step.products, step.cached, step.overhead)
        assert all(part > 0 for part in parts), trial.plan
        assert step.travel >= 0
        assert (step.travel > 1e-9) == (trial.plan.width > 1 or trial.plan.stages > 1)
        if trial.plan.ranks(BUSY.transformer) == 1:
            # A mean step is about as long as the mean of all.
            took = trial.report.busy * trial.report.duration * trial.report.devices
            assert step.seconds == pytest.approx(
                took / trial.plan.width / trial.report.steps, rel=0.1
            )


@pytest.mark.parametrize(
    ("model", "device", "context", "most", "words"),
    [
        ("llama-3.1-70b", "H100", 131_072, 1, ["131 GiB of weights", "71.7 GiB", "--max-gpus 4"]),
        ("llama-3.1-70b", "H100", 131_072, 2, ["20 GiB of KV", "--dtype fp8", "--max-model-len"]),
        ("llama-3.1-8b", "L4", 131_072, 1, ["context of 131072 tokens", "--max-gpus 2"]),
        ("qwen3-next-80b-a3b", "H100", 4096, 1, ["recurrent states"]),
    ],
)
def test_what_does_not_fit_is_told_in_bytes(
    model: str, device: str, context: int, most: int, words: list[str]
) -> None:
    case = small_case(model, device, context=context)
    with pytest.raises(BudgetError) as refusal:
        found(case, Wish(Objective.THROUGHPUT), most)
    for word in words:
        assert word in str(refusal.value)


@pytest.mark.parametrize(
    ("slo", "floor", "words"),
    [
        (Objectives(ttft=0.001), None, ["TTFT", "TP4; wished 1 ms"]),
        (Objectives(ttft=9.0, tpot=1e-4), None, ["TPOT", "wished 0.1 ms"]),
        (SLO, Floor(rate=1000.0), ["--min-goodput 1000 requests/s", "most there could be"]),
    ],
)
def test_what_cannot_be_is_refused_with_the_best_there_is(
    slo: Objectives, floor: Floor | None, words: list[str]
) -> None:
    case = small_case(slo=slo)
    with pytest.raises(ConfigError) as refusal:
        found(case, Wish(Objective.GOODPUT, slo, floor))
    for word in words:
        assert word in str(refusal.value)


def test_a_floor_that_is_not_reached_is_told_with_the_most_there_was() -> None:
    slo = Objectives(ttft=0.8, tpot=0.06)
    case = small_case(items=requests(16, 0.0), slo=slo)
    wish = Wish(Objective.GOODPUT, slo, Floor(share=1.0))
    result = found(case, wish, 2)
    assert wish.value(result.best.figures) < 1
    with pytest.raises(ConfigError, match=r"no plan reached --min-goodput 100 %: .* are the most"):
        require_reached(result, wish, case.transformer)


@pytest.mark.parametrize("text", ["", "many", "-1", "0", "101%", "nan", "inf"])
def test_no_goodput_is_no_goodput(text: str) -> None:
    with pytest.raises(ConfigError, match="goodput"):
        Floor.parse(text)


def test_goodput_is_read_as_people_write_it() -> None:
    assert Floor.parse("7.5") == Floor(rate=7.5)
    assert Floor.parse("95%") == Floor(share=0.95)
    assert str(Floor.parse("95%")) == "95 %"


def test_wishes_that_contradict_themselves_are_refused() -> None:
    with pytest.raises(ConfigError, match="--ttft-slo or --tpot-slo"):
        Wish(Objective.GOODPUT)
    with pytest.raises(ConfigError, match="--min-goodput"):
        Wish(Objective.ENERGY, SLO, Floor(share=0.5))
    assert 0 < TIE < 0.05


def test_requests_that_all_are_too_long_are_no_load() -> None:
    case = small_case(items=requests(3, 1.0), context=8)
    with pytest.raises(ConfigError, match="none of the 3 requests fits a context of 8 tokens"):
        found(case, Wish(Objective.THROUGHPUT))


def test_a_plan_for_no_devices_is_refused() -> None:
    with pytest.raises(ConfigError, match="--max-gpus must be at least 1, not 0"):
        found(small_case(), Wish(Objective.THROUGHPUT), 0)
