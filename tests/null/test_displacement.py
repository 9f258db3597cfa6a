"""Those with time to spare make way for those without, and come back in time."""

from __future__ import annotations

import random

import pytest
from parked_scene import CONTEXT, ParkedBench, TierKind

from ellm.core.config import MemoryConfig, SchedulerConfig, SchedulingPolicy
from ellm.core.objectives import Objectives
from ellm.core.units import KIB

IN_NO_HURRY = Objectives(ttft=5.0, tpot=0.5)


def bench_of(chunks: int, context: int = CONTEXT, tier: int = 10_000) -> ParkedBench:
    """Up to 32 tokens take a chunk of 4 KiB in each of four groups; a step takes 10 ms or more."""
    return ParkedBench(
        MemoryConfig(chunk_bytes=4 * KIB),
        SchedulerConfig(
            max_num_seqs=64,
            max_model_len=context,
            policy=SchedulingPolicy.SLO,
            ttft_slo=1.0,
            tpot_slo=0.1,
        ),
        TierKind(tier * KIB, keeps=False),
        chunks * 4 * KIB,
    )


def full_bench(own: Objectives = IN_NO_HURRY, tier: int = 10_000) -> ParkedBench:
    """Two decode, and leave no room for a prompt of sixty tokens."""
    bench = bench_of(25, tier=tier)
    for number in range(2):
        bench.submit([number] * 60, 30, objectives=own)
    while len(bench.tokens.get(("r1", 0), ())) < 12:
        bench.step()
    return bench


def test_one_with_time_to_spare_makes_way_for_one_without_and_comes_back_in_time() -> None:
    bench = full_bench()
    stats = bench.engine.stats
    bench.submit([7] * 60, 5, objectives=Objectives(ttft=0.2, tpot=0.1))
    while not stats.elastic.swapped:
        bench.step()
    assert ("r2", 0) not in bench.tokens, "rows are leaving"
    bench.step()
    assert len(bench.tokens["r2", 0]) == 1, "a step later it starts"
    bench.drain()
    assert dict(bench.engine.goodput.outcomes) == {"met": 3}
    assert (stats.elastic.swapped, stats.elastic.recomputed) == (1, 0)
    bench.end()


@pytest.mark.parametrize(
    ("own", "newcomer", "tier"),
    [
        (Objectives(ttft=5.0, tpot=0.012), Objectives(ttft=0.2, tpot=0.1), 10_000),
        (IN_NO_HURRY, Objectives(ttft=0.01, tpot=0.1), 10_000),
        (IN_NO_HURRY, Objectives(ttft=4.0, tpot=0.1), 10_000),
        (IN_NO_HURRY, Objectives(ttft=0.2, tpot=0.1), 8),
    ],
    ids=["nobody has time", "a lost cause", "it can wait", "no room below"],
)
def test_nobody_makes_way_for_nothing(own: Objectives, newcomer: Objectives, tier: int) -> None:
    bench = full_bench(own, tier)
    bench.submit([7] * 60, 5, objectives=newcomer)
    bench.drain()
    assert bench.engine.stats.preemptions == 0
    bench.end()


def test_where_one_victim_is_not_enough_and_the_other_cannot_pause_none_makes_way() -> None:
    """Four chunks and twelve are held, seven are free, and the newcomer takes twelve."""
    bench = bench_of(24)
    bench.submit([1] * 5, 27, objectives=IN_NO_HURRY)
    bench.submit([2] * 70, 26, objectives=Objectives(ttft=5.0, tpot=0.012))
    for _ in range(4):
        bench.step()
    bench.submit([7] * 90, 2, objectives=Objectives(ttft=0.2, tpot=0.1))
    bench.drain()
    assert bench.engine.stats.preemptions == 0
    bench.end()


def served(displaces: bool) -> ParkedBench:
    """Seventy requests that come too fast for a memory of about ten."""
    bench, dice = bench_of(400, context=512, tier=4000), random.Random(1)
    if not displaces:
        bench.engine._scheduler._displacement = None
    # Books are looked at elsewhere, and often enough.
    bench.engine.check = bench.tiers.check = lambda: None  # type: ignore[method-assign]
    moment, left = 0.0, 70
    while left or bench.engine.has_work:
        while left and moment <= bench.clock.now():
            prompt = min(280, int(dice.lognormvariate(4.4, 0.7)) + 5)
            bench.submit([1] * prompt, min(200, int(dice.lognormvariate(4.1, 0.6)) + 2))
            moment, left = moment + dice.expovariate(13), left - 1
        bench.step()
    bench.drain()
    return bench


def test_under_overload_more_are_served_in_time_and_nobody_is_moved_about_for_nothing() -> None:
    benches = [served(displaces) for displaces in (True, False)]
    turns, plain = (bench.engine for bench in benches)
    assert turns.goodput.outcomes["met"] >= plain.goodput.outcomes["met"]
    assert turns.goodput.outcomes["met"] < 70, "that was no overload"
    parkings = turns.stats.elastic.swapped + turns.stats.elastic.recomputed
    assert plain.stats.preemptions < parkings < turns.stats.generation_tokens / 10
    for bench in benches:
        bench.end()
