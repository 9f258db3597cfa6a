"""Step times fitted to what a profile measured."""

from __future__ import annotations

import random

import pytest
from step_machines import MACHINE, Machine, experts, roofline, rows, staircase, varied

from ellm.core.load import StepLoad
from ellm.scheduling.cost import PRIOR
from ellm.scheduling.cost_fit import Observation, StepKind, accuracy, fit

SIZES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)
CHUNKS = (16, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096, 8192)
MACHINES = [MACHINE.seconds, roofline, experts, staircase, rows]


def profile(
    machine: Machine, most: int = 8192, noise: float = 0.03, hiccups: float = 0.03
) -> list[Observation]:
    """Three times each: decoding, prompts up to `most` tokens, and both at once."""
    loads = [StepLoad.of([(1, length)] * n) for n in SIZES for length in (64, 1024, 8192)]
    for chunk in CHUNKS:
        for before in (0, 2048, 8192):
            prompt = StepLoad.of([(chunk, before)])
            loads += [prompt, StepLoad.of([(chunk, before), *[(1, 1024)] * 16])]
    rng = random.Random(0)
    return [
        (
            load,
            machine(load) * rng.lognormvariate(0, noise) * (20 if rng.random() < hiccups else 1),
        )
        for load in loads
        if load.tokens <= most + 16
        for _ in range(3)
    ]


def errors(observations: list[Observation], machine: Machine) -> list[float]:
    """Relative errors of what was fitted, for steps of every kind; the smallest first."""
    found, rng = fit(observations), random.Random(1)
    loads = [varied(rng) for _ in range(300)]
    return sorted(abs(found.seconds(load) / machine(load) - 1) for load in loads)


@pytest.mark.parametrize("machine", MACHINES)
def test_every_machine_is_found_through_noise_and_hiccups(machine: Machine) -> None:
    found = errors(profile(machine), machine)
    assert sum(found) / len(found) < 0.01
    assert found[-1] < 0.1  # a corner or a step, in the middle between two knots


def test_a_line_is_found_exactly() -> None:
    found = fit(profile(MACHINE.seconds, noise=0.0, hiccups=0.0))
    assert found.values == pytest.approx(MACHINE.values, rel=1e-3)


@pytest.mark.parametrize("machine", [MACHINE.seconds, roofline, staircase, rows])
def test_beyond_the_largest_step_the_curve_goes_on(machine: Machine) -> None:
    """Also where the little that was measured beyond a knot is all noise."""
    found = fit(profile(machine, most=2048))
    for tokens in (4096, 8192, 16384):
        prompt = StepLoad.of([(tokens, 0)])
        assert found.seconds(prompt) == pytest.approx(machine(prompt), rel=0.12)


def test_between_what_was_measured_the_curve_is_nearly_a_line() -> None:
    observations = [
        (load, seconds)
        for load, seconds in profile(experts, noise=0.0, hiccups=0.0)
        if not 64 < load.tokens < 2048
    ]
    found = fit(observations)

    def curve(tokens: int) -> float:
        return found.seconds(StepLoad(tokens=tokens))

    for tokens in (128, 256, 512, 1024):
        share = (tokens - 64) / (2048 - 64)
        line = curve(64) + share * (curve(2048) - curve(64))
        assert curve(tokens) == pytest.approx(line, rel=0.15), tokens
    assert curve(128) > 1.02 * curve(64)  # and not flat first, steep in the end


def test_what_was_not_told_apart_keeps_the_proportions_of_the_prior() -> None:
    observations = [(StepLoad.of([(1, 100)] * 16), 0.1)] * 50
    found, load = fit(observations), observations[0][0]
    assert found.seconds(load) == pytest.approx(0.1, rel=1e-3)
    assert found.values == pytest.approx(PRIOR.times(0.1 / PRIOR.seconds(load)).values, rel=1e-3)


def test_one_measurement_is_enough_for_a_guess() -> None:
    load = StepLoad.of([(100, 0)])
    found = fit([(load, 0.5)])
    assert found.seconds(load) == pytest.approx(0.5, rel=1e-2)
    assert 0 < found.seconds(StepLoad.of([(10, 0)])) < 0.5


def test_the_report_says_how_well_each_kind_of_step_is_known() -> None:
    decode, prompt = StepLoad.of([(1, 10)] * 4), StepLoad.of([(100, 0)])
    both = StepLoad.of([(1, 10), (100, 0)])
    seconds = MACHINE.seconds
    report = accuracy(
        MACHINE,
        [
            (decode, seconds(decode)),
            (decode, seconds(decode) / 1.2),
            (prompt, seconds(prompt) / 0.9),
            (both, seconds(both)),
        ],
    )
    assert list(report) == [StepKind.DECODE, StepKind.PROMPT, StepKind.MIXED]
    known = report[StepKind.DECODE]
    assert (known.steps, known.mean, known.largest) == pytest.approx((2, 0.1, 0.2))
    assert report[StepKind.PROMPT].largest == pytest.approx(0.1)
    assert report[StepKind.MIXED].mean == pytest.approx(0)


@pytest.mark.parametrize(
    ("parts", "kind"),
    [
        ([(1, 50)], StepKind.DECODE),
        ([(1, 50), (1, 0)], StepKind.DECODE),
        ([(64, 128)], StepKind.PROMPT),
        ([(64, 0), (32, 0)], StepKind.PROMPT),
        ([(64, 0), (1, 50)], StepKind.MIXED),
    ],
)
def test_kinds_of_steps(parts: list[tuple[int, int]], kind: StepKind) -> None:
    assert StepKind.of(StepLoad.of(parts)) is kind
