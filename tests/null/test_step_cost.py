"""Step times learned from noisy, changing and interrupted measurements."""

from __future__ import annotations

import json
import logging
import random
from collections.abc import Callable
from itertools import product
from pathlib import Path
from statistics import mean

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from step_machines import (
    MACHINE,
    Machine,
    decoding,
    experts,
    mixed,
    roofline,
    rows,
    staircase,
    varied,
)

from ellm.core.load import StepLoad
from ellm.scheduling.coefficients import KNOTS, Coefficients
from ellm.scheduling.cost import PRIOR, WARM_UP, StepCost
from ellm.scheduling.cost_file import load_cost, save_cost
from ellm.scheduling.cost_fit import fit
from ellm.scheduling.nnls import nonnegative

WHERE = {"model": "tiny", "device": "cpu"}
LOADS = st.builds(
    StepLoad,
    tokens=st.integers(1, 10**5),
    attention=st.integers(1, 10**9),
    kv_tokens=st.integers(1, 10**6),
    sequences=st.integers(1, 512),
)


def run(
    cost: StepCost,
    rng: random.Random,
    steps: int,
    machine: Machine = MACHINE.seconds,
    loads: Callable[[random.Random], StepLoad] = mixed,
    noise: float = 0.05,
    hiccups: float = 0.0,
) -> None:
    """Let `cost` watch a machine, some of whose steps take twenty times as long."""
    for _ in range(steps):
        load = loads(rng)
        seconds = machine(load) * rng.lognormvariate(0, noise)
        cost.observe(load, seconds * (20 if rng.random() < hiccups else 1))


def errors(
    cost: StepCost,
    machine: Machine = MACHINE.seconds,
    loads: Callable[[random.Random], StepLoad] = mixed,
    count: int = 100,
) -> list[float]:
    """Relative errors of predictions for steps of every kind; the smallest first."""
    rng = random.Random(0)
    asked = [loads(rng) for _ in range(count)]
    return sorted(abs(cost.predict(load) / machine(load) - 1) for load in asked)


@settings(max_examples=100)
@given(seed=st.integers(0, 2**32), size=st.integers(1, 4))
def test_nonnegative_least_squares_is_the_best_of_all_active_sets(seed: int, size: int) -> None:
    rng = random.Random(seed)
    rows = [[rng.gauss(0, 10.0**i) for i in range(size)] for _ in range(size + 3)]
    answer = [rng.gauss(0, 1) for _ in rows]
    matrix = [[sum(r[i] * r[j] for r in rows) for j in range(size)] for i in range(size)]
    vector = [sum(r[i] * a for r, a in zip(rows, answer, strict=True)) for i in range(size)]

    def loss(x: list[float]) -> float:
        residuals = (
            sum(a * b for a, b in zip(r, x, strict=True)) - y
            for r, y in zip(rows, answer, strict=True)
        )
        return sum(value * value for value in residuals)

    start = [rng.choice([0.0, rng.random()]) for _ in range(size)]
    found = nonnegative(matrix, vector, start)
    assert min(found) >= 0
    best = loss(found)
    # No other point is better: not with any unknown a little larger or smaller.
    for change in product((-1e-3, 0, 1e-3), repeat=size):
        other = [
            max(0.0, x + c / 10.0**i) for i, (x, c) in enumerate(zip(found, change, strict=True))
        ]
        assert best <= loss(other) * (1 + 1e-9) + 1e-12


def test_before_anything_was_measured_the_prior_speaks() -> None:
    cost = StepCost(prior=MACHINE)
    assert errors(cost) == pytest.approx([0.0] * 100)
    assert (cost.observations, cost.error) == (0, 0.0)


def test_the_first_steps_say_how_fast_the_machine_is() -> None:
    cost, rng = StepCost(), random.Random(1)
    machine = PRIOR.times(50).seconds
    run(cost, rng, 5, machine, hiccups=0.2)
    assert max(errors(cost, machine)) < 0.1


def test_coefficients_are_recovered_from_exact_times() -> None:
    cost = StepCost(prior=PRIOR)
    run(cost, random.Random(2), 1500, noise=0.0)
    found, true = cost.coefficients, MACHINE
    assert found.values[len(KNOTS) :] == pytest.approx(true.values[len(KNOTS) :], rel=0.03)
    # Four tokens take 3 % of an empty step's time: what they take is the least known.
    assert found.slopes == pytest.approx(true.slopes, rel=0.1)
    assert cost.error < 0.001


@pytest.mark.parametrize("hiccups", [0.0, 0.03])
def test_predictions_hold_through_noise_and_hiccups(hiccups: float) -> None:
    cost = StepCost()
    run(cost, random.Random(3), 1500, noise=0.1, hiccups=hiccups)
    assert mean(errors(cost)) < 0.03
    assert max(errors(cost)) < 0.1


def test_one_hiccup_moves_little() -> None:
    cost, rng = StepCost(), random.Random(4)
    run(cost, rng, 320, noise=0.02)
    cost.observe(mixed(rng), 20.0)
    run(cost, rng, 16, noise=0.02)
    assert max(errors(cost)) < 0.05


def test_a_machine_that_has_changed_is_learned_anew() -> None:
    cost, rng = StepCost(), random.Random(5)
    for factor in (1.0, 3.0, 0.5):
        machine = MACHINE.times(factor).seconds
        run(cost, rng, 600, machine)
        assert max(errors(cost, machine)) < 0.1, factor


def test_what_decoding_cannot_tell_apart_is_not_forgotten() -> None:
    cost, rng = StepCost(), random.Random(6)
    run(cost, rng, 1000)
    run(cost, rng, 5000, loads=decoding)
    prompt = StepLoad().with_sequence(2048, 4096)
    assert cost.predict(prompt) == pytest.approx(MACHINE.seconds(prompt), rel=0.15)


def test_the_error_is_that_of_predictions_made_beforehand() -> None:
    cost, rng = StepCost(), random.Random(7)
    run(cost, rng, 1000, noise=0.1)
    assert 0.06 < cost.error < 0.12  # the mean of a normal error of 0.1 is 0.08


@settings(max_examples=30)
@given(
    seed=st.integers(0, 2**32),
    steps=st.integers(0, 100),
    load=LOADS,
    more=LOADS,
)
def test_predictions_are_positive_and_rise_with_every_part_of_the_load(
    seed: int, steps: int, load: StepLoad, more: StepLoad
) -> None:
    """Whatever was measured: here times that have nothing to do with the load."""
    cost, rng = StepCost(), random.Random(seed)
    for _ in range(steps):
        cost.observe(mixed(rng), rng.choice([0.0, 1e-9, rng.random(), 1e4]))
    least = cost.predict(load)
    assert least >= 0
    for name in ("tokens", "attention", "kv_tokens", "sequences"):
        larger = load._replace(**{name: getattr(load, name) + getattr(more, name)})
        assert cost.predict(larger) >= least


@pytest.mark.parametrize("machine", [roofline, experts, staircase, rows])
def test_a_curve_is_learned_as_well_as_a_line(machine: Machine) -> None:
    cost = StepCost()
    run(cost, random.Random(11), 2000, machine, loads=varied)
    found = errors(cost, machine, varied, 300)
    assert mean(found) < 0.012
    assert found[285] < 0.05
    assert found[-1] < 0.15  # a corner or a step, in the middle between two knots


@pytest.mark.parametrize("machine", [roofline, experts, rows])
def test_a_curve_outlasts_a_long_time_of_decoding(machine: Machine) -> None:
    cost, rng = StepCost(), random.Random(12)
    run(cost, rng, 1000, machine, loads=varied)
    run(cost, rng, 3000, machine, loads=decoding)
    for tokens in (256, 1024, 4096):
        prompt = StepLoad.of([(tokens, 0)])
        assert cost.predict(prompt) == pytest.approx(machine(prompt), rel=0.2)


@pytest.mark.parametrize("factor", [0.1, 10.0])
def test_larger_steps_than_any_so_far_cost_as_the_largest_ones_did(factor: float) -> None:
    """Tokens cost so many times what they do in the prior, beside the rest."""
    machine = Coefficients.even(token=factor * 2e-5, attention=1e-9, kv_token=5e-8, step=7e-3)

    def short(rng: random.Random) -> StepLoad:
        chunk = rng.randint(16, 500)
        return decoding(rng).with_sequence(chunk, chunk + rng.choice([0, 1000]))

    cost = StepCost()
    run(cost, random.Random(13), 500, machine.seconds, loads=short)
    for tokens in (1024, 4096, 8192):
        prompt = StepLoad.of([(tokens, 0)])
        assert cost.predict(prompt) == pytest.approx(machine.seconds(prompt), rel=0.25)


@pytest.mark.parametrize("seed", [14, 15, 16, 17])
def test_a_little_noise_beyond_a_knot_says_nothing_of_what_lies_beyond(seed: int) -> None:
    """A full chunk of 2048 tokens ends where those who decode beside it say: just after a knot."""

    def capped(rng: random.Random) -> StepLoad:
        load = decoding(rng)
        if rng.random() < 0.3:
            return load.with_sequence(2048, 2048 + rng.choice([0, rng.randint(0, 16000)]))
        return load

    cost = StepCost()
    run(cost, random.Random(seed), 3000, roofline, loads=capped)
    for tokens in (4096, 8192):
        prompt = StepLoad.of([(tokens, 0)])
        assert cost.predict(prompt) == pytest.approx(roofline(prompt), rel=0.12)


def profiled(machine: Machine) -> Coefficients:
    """What an exact profile of steps of all sizes says."""
    rng = random.Random(15)
    return fit([(load, machine(load)) for load in (varied(rng) for _ in range(500))])


@pytest.mark.parametrize("machine", [roofline, experts, rows])
def test_what_is_known_beforehand_holds_until_something_else_is_seen(machine: Machine) -> None:
    known = profiled(machine)
    cost, rng = StepCost.informed(known, WHERE), random.Random(16)
    assert (cost.provenance, cost.observations) == (WHERE, 0)
    # The first steps of a process are slow: that scales nothing.
    for _ in range(3):
        load = decoding(rng)
        cost.observe(load, 5 * machine(load))
    assert cost.coefficients == known
    run(cost, rng, 300, machine, loads=decoding)
    assert errors(cost, machine, varied)[-1] < 0.15
    assert mean(errors(cost, machine, varied)) < 0.015


def test_what_is_known_beforehand_is_left_when_it_is_wrong() -> None:
    cost, rng = StepCost.informed(MACHINE.times(1.5)), random.Random(17)
    run(cost, rng, 400)
    assert mean(errors(cost)) < 0.05
    run(cost, rng, 600)
    assert errors(cost)[-1] < 0.1


@pytest.mark.parametrize("informed", [False, True])
@pytest.mark.parametrize("steps", [0, 5, WARM_UP, 200])
def test_a_saved_cost_goes_on_where_it_stopped(tmp_path: Path, steps: int, informed: bool) -> None:
    cost = StepCost.informed(PRIOR, WHERE) if informed else StepCost(WHERE)
    run(cost, random.Random(8), steps)
    path = tmp_path / "made" / "on" / "demand" / "cost.json"
    assert save_cost(path, cost)
    again = load_cost(path, WHERE)
    assert again.to_json() == cost.to_json()
    run(cost, random.Random(9), 100)
    run(again, random.Random(9), 100)
    assert again.to_json() == cost.to_json()
    assert [entry.name for entry in path.parent.iterdir()] == ["cost.json"]


def test_no_file_is_no_news(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert load_cost(tmp_path / "none.json", WHERE).observations == 0
    assert not caplog.records


def broken_states() -> list[str]:
    cost = StepCost(WHERE)
    run(cost, random.Random(10), 50)
    good = json.loads(cost.to_json())
    changes: list[dict[str, object]] = [
        {"format": 0},
        {"format": 1},  # one slope for all tokens
        {"provenance": None},
        {"coefficients": [1, 2, 3]},
        {"coefficients": [1, 2, 3, 4, -5]},
        {"coefficients": "fast"},
        {"sums": [float("nan")] * len(good["sums"])},
        {"sums": good["sums"][:-1]},
        {"slopes": good["slopes"][:-1]},
        {"importance": float("inf")},
        {"error": None},
        {"ratios": []},
        {"provenance": {"model": "large", "device": "cpu"}},
    ]
    texts = [json.dumps(good | change) for change in changes]
    return ["", "[]", "{", "\x00", cost.to_json()[:100], "[" * 100_000, *texts]


@pytest.mark.parametrize("text", broken_states())
def test_a_file_that_cannot_be_used_is_ignored_with_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, text: str
) -> None:
    path = tmp_path / "cost.json"
    path.write_text(text, encoding="utf-8")
    assert load_cost(path, WHERE).observations == 0
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert str(path) in caplog.text


def test_bytes_that_are_no_text_and_folders_are_ignored_as_well(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "cost.json"
    path.write_bytes(b"\xff\xfe\x80")
    assert load_cost(path, WHERE).observations == 0
    assert load_cost(tmp_path, WHERE).observations == 0
    assert len(caplog.records) == 2


def test_a_machine_that_refuses_to_write_costs_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("in the way")
    assert not save_cost(tmp_path / "file" / "cost.json", StepCost(WHERE))
    (tmp_path / "folder").mkdir()
    assert not save_cost(tmp_path / "folder", StepCost(WHERE))
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["file", "folder"]
    assert len(caplog.records) == 2
