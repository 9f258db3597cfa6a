"""Steps brought about to be timed are the ones that were wanted, and fit what made them."""

from __future__ import annotations

import random
import time

import pytest

from ellm.core.config import MemoryConfig, SchedulerConfig
from ellm.core.load import StepLoad
from ellm.core.units import KIB, MIB
from ellm.llm.profiling.fit import StepFit
from ellm.llm.profiling.grid import Point, grid
from ellm.llm.profiling.steps import SPARE, Idler, Measured, StepBench, measure
from ellm.scheduling.coefficients import Coefficients
from ellm.sim.activations import Activations
from ellm.sim.clock import VirtualClock
from ellm.sim.replay import SimModel, simulated_engine

TIMES = Coefficients.even(token=1e-4, attention=1e-8, kv_token=1e-6, sequence=2e-5, step=1e-3)
START = 7e-4
CONTEXT = 1024
SEQUENCES = 16


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> VirtualClock:
    """What the bench reads the time from."""
    clock = VirtualClock()
    monkeypatch.setattr(time, "perf_counter", clock.now)
    return clock


@pytest.fixture
def bench(clock: VirtualClock) -> StepBench:
    model = SimModel(cost=TIMES, activations=Activations(256, 256))
    memory = MemoryConfig(budget=64 * MIB, chunk_bytes=64 * KIB, prefix_caching=True)
    limits = SchedulerConfig(max_num_seqs=SEQUENCES, max_model_len=CONTEXT)
    engine = simulated_engine(model, memory, limits, clock)
    idler = engine._executor = Idler(engine._executor)
    engine._scheduler._activation_bytes = idler.activation_bytes
    return StepBench(engine, idler, 1000, 0)


POINTS = grid(SEQUENCES, CONTEXT, held=8192, spare=SPARE)


@pytest.mark.parametrize("point", POINTS, ids=str)
def test_a_point_is_the_step_that_was_wanted(bench: StepBench, point: Point) -> None:
    steps = bench.visit(point, repeats=2)
    assert len(steps) == 2
    for number, (load, seconds) in enumerate(steps, 1):
        assert load.sequences == point.prompts + point.decoding
        assert load.tokens == point.size
        before = point.before * point.prompts
        # Those who decode have made some tokens by now, and no more than were provided for.
        least = before + point.prompts * point.tokens + point.decoding * (point.context + number)
        assert least <= load.kv_tokens <= least + point.decoding * (point.meanwhile + 1)
        assert seconds == pytest.approx(TIMES.seconds(load))


def test_nothing_that_would_not_fit_is_tried() -> None:
    assert {point.prompts + point.decoding for point in POINTS} >= {1, SEQUENCES}
    assert max(point.prompts + point.decoding for point in POINTS) == SEQUENCES
    assert max(point.held for point in POINTS) <= 8192
    assert all(point.before + point.tokens < CONTEXT for point in POINTS)


def test_steps_that_memory_is_too_short_for_are_none(bench: StepBench) -> None:
    bench._engine._memory.pool.ledger.limit("kv", ceiling=40)
    assert bench.visit(Point(decoding=16, context=700)) == []
    assert bench._engine.is_idle
    assert len(bench.visit(Point(decoding=1, context=16), repeats=3)) == 3


def test_rounds_end_in_time_and_leave_out_what_takes_too_long(bench: StepBench) -> None:
    told: list[tuple[int, int]] = []
    found = measure(bench, POINTS, 1.0, 0, lambda done, total: told.append((done, total)))
    largest = max(TIMES.seconds(each.load) for each in found)
    assert largest < 1 / 12  # a twenty-fourth by the pace of the steps before
    assert len(found) < len(POINTS)
    assert [done for done, _ in told] == list(range(1, len(told) + 1))
    assert len(told) >= 2 * len(found)
    assert all(done <= total for done, total in told)


def load_of(point: Point) -> StepLoad:
    parts = [(point.tokens, point.before)] * point.prompts
    return StepLoad.of(parts + [(1, point.context)] * point.decoding)


def measured(point: Point, load: StepLoad, start: float) -> Measured:
    seconds = TIMES.seconds(load) + start * point.prompts
    return Measured(point, [(load, seconds)] * 4)


@pytest.mark.parametrize("start", [0.0, START])
def test_what_it_takes_to_begin_is_told_from_what_is_computed(start: float) -> None:
    steps = [measured(point, load_of(point), start) for point in POINTS]
    fitted = StepFit.of(steps)
    assert fitted.start == pytest.approx(start, abs=4e-5)
    errors = [abs(fitted.error(each)) for each in steps]
    assert max(errors) < 0.05
    assert sum(errors) / len(errors) < 0.01


def test_a_hiccup_is_not_what_a_step_takes() -> None:
    load = StepLoad.of([(1, 10)])
    steps = [(load, 1e-3)] * 5 + [(load, 1.2e-3), (load, 0.5), (load, 0.7)]
    assert Measured(Point(decoding=1, context=10), steps).lasts == pytest.approx(1.033e-3, rel=1e-2)


def test_beginning_may_take_nearly_all_of_a_step() -> None:
    start = 100 * max(TIMES.seconds(StepLoad.of([(one, 0)])) for one in (1, 64))
    steps = [
        measured(Point(prompts=1, tokens=tokens), StepLoad.of([(tokens, 0)]), start)
        for tokens in (8, 16, 32, 64)
    ]
    fitted = StepFit.of(steps)
    assert 0 < fitted.start < start
    assert all(abs(fitted.error(each)) < 0.05 for each in steps)


def captured(load: StepLoad) -> float:
    """A GPU's steps: those that decode are replayed, those with prompts are launched."""
    computed = 1.4e-3 + 1.1e-5 * load.tokens + 1e-8 * load.kv_tokens
    return (
        max(computed, 11e-3 + 2e-5 * load.sequences) if load.tokens > load.sequences else computed
    )


def test_launches_that_hold_prompts_up_are_told_from_what_is_computed() -> None:
    rng = random.Random(3)
    steps = [
        Measured(point, [(load, captured(load) * rng.uniform(0.95, 1.05))])
        for point in grid(64, 4096, 100_000, 32)
        for load in [load_of(point)]
    ]
    fitted = StepFit.of(steps)
    assert fitted.launched is not None
    assert fitted.launched.step == pytest.approx(11e-3, rel=0.1)
    assert sum(abs(fitted.error(each)) for each in steps) / len(steps) < 0.05
    plain = StepFit.plain(steps)
    assert plain.launched is None
    assert sum(abs(plain.error(each)) for each in steps) / len(steps) > 0.15
