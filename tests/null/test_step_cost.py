"""Step times learned from noisy, changing and interrupted measurements."""

from __future__ import annotations

import json
import logging
import random
from dataclasses import astuple
from itertools import product
from pathlib import Path
from statistics import mean

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ellm.core.load import StepLoad
from ellm.scheduling.cost import PRIOR, WARM_UP, Coefficients, StepCost
from ellm.scheduling.cost_file import load_cost, save_cost
from ellm.scheduling.nnls import nonnegative

MACHINE = Coefficients(token=3e-5, attention=2e-9, kv_token=8e-8, sequence=3e-5, step=4e-3)
WHERE = {"model": "tiny", "device": "cpu"}
LOADS = st.builds(
    StepLoad,
    tokens=st.integers(1, 10**5),
    attention=st.integers(1, 10**9),
    kv_tokens=st.integers(1, 10**6),
    sequences=st.integers(1, 512),
)


def decoding(rng: random.Random) -> StepLoad:
    load = StepLoad()
    for _ in range(rng.randint(1, 32)):
        load = load.with_sequence(1, rng.randint(1, 8000))
    return load


def mixed(rng: random.Random) -> StepLoad:
    load = decoding(rng)
    if rng.random() < 0.3:
        chunk = rng.randint(16, 2048)
        load = load.with_sequence(chunk, chunk + rng.choice([0, 0, rng.randint(0, 16000)]))
    return load


def run(
    cost: StepCost,
    rng: random.Random,
    steps: int,
    machine: Coefficients = MACHINE,
    loads: object = mixed,
    noise: float = 0.05,
    hiccups: float = 0.0,
) -> None:
    """Let `cost` watch a machine, some of whose steps take twenty times as long."""
    assert callable(loads)
    for _ in range(steps):
        load = loads(rng)
        seconds = machine.seconds(load) * rng.lognormvariate(0, noise)
        cost.observe(load, seconds * (20 if rng.random() < hiccups else 1))


def errors(cost: StepCost, machine: Coefficients = MACHINE) -> list[float]:
    """Relative errors of predictions for steps of every kind."""
    rng = random.Random(0)
    loads = [mixed(rng) for _ in range(100)]
    return [abs(cost.predict(load) / machine.seconds(load) - 1) for load in loads]


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
    machine = PRIOR.times(50)
    run(cost, rng, 5, machine, hiccups=0.2)
    assert max(errors(cost, machine)) < 0.1


def test_coefficients_are_recovered_from_exact_times() -> None:
    cost = StepCost(prior=PRIOR)
    run(cost, random.Random(2), 1500, noise=0.0)
    assert astuple(cost.coefficients) == pytest.approx(astuple(MACHINE), rel=0.03)
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
        machine = MACHINE.times(factor)
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


@settings(max_examples=200)
@given(
    values=st.tuples(*[st.sampled_from([0.0, 1e-9, 1e-6, 1e-4, 1e-2])] * 5),
    sequences=st.integers(0, 40),
    computed=st.integers(0, 5000),
    most=st.integers(0, 3000),
    seconds=st.floats(0, 2),
)
def test_the_largest_chunk_fits_and_one_token_more_does_not(
    values: tuple[float, ...], sequences: int, computed: int, most: int, seconds: float
) -> None:
    cost = StepCost(prior=Coefficients(*values))
    load = StepLoad()
    for _ in range(sequences):
        load = load.with_sequence(1, 100)
    chunk = cost.largest_chunk(load, computed, most, seconds)
    assert 0 <= chunk <= most
    if chunk:
        assert cost.predict(load.with_sequence(chunk, computed + chunk)) <= seconds
    if chunk < most:
        next_one = load.with_sequence(chunk + 1, computed + chunk + 1)
        assert cost.predict(next_one) > seconds * (1 - 1e-9)


@pytest.mark.parametrize("steps", [0, 5, WARM_UP, 200])
def test_a_saved_cost_goes_on_where_it_stopped(tmp_path: Path, steps: int) -> None:
    cost = StepCost(WHERE)
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
        {"provenance": None},
        {"coefficients": [1, 2, 3]},
        {"coefficients": [1, 2, 3, 4, -5]},
        {"coefficients": "fast"},
        {"products": [float("nan")] * 15},
        {"weight": float("inf")},
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
