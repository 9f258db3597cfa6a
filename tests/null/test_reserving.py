"""The baselines of benchmarks/paper-pagedattention: buddies, and engines that reserve ahead."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks/paper-pagedattention"))

from buddy import Block, Buddies
from reserving import ReservingEngine

from ellm.core.config import MemoryConfig, MemoryMode, SchedulerConfig
from ellm.core.request import Request
from ellm.core.sampling import SamplingParams
from ellm.core.units import MIB
from ellm.sim.replay import SimModel, simulated_engine

CONTEXT, PLACES = 64, 300


@given(
    room=st.integers(1, 500),
    moves=st.lists(st.tuples(st.booleans(), st.integers(1, 100)), max_size=60),
)
def test_buddies_never_overlap_and_all_come_back(room: int, moves: list[tuple[bool, int]]) -> None:
    buddies, fresh, taken = Buddies(room), Buddies(room), list[Block]()
    for gives, count in moves:
        if gives and taken:
            buddies.give(taken.pop(count % len(taken)))
            continue
        there = buddies.has(count)
        block = buddies.take(count)
        assert (block is not None) == there
        if block is not None:
            assert count <= block.size < 2 * count
            assert block.start + block.size <= room
            taken.append(block)
        places = [place for b in taken for place in range(b.start, b.start + b.size)]
        assert len(set(places)) == len(places)
    for block in taken:
        buddies.give(block)
    whole = [count for count in range(1, room + 1) if fresh.has(count)]
    assert [count for count in range(1, room + 1) if buddies.has(count)] == whole


def served(rule: object, count: int) -> tuple[int, int]:
    """The most that ran at once of `count` requests of 10 + 20 tokens, and preemptions."""
    engine = simulated_engine(
        SimModel(engine=partial(ReservingEngine, rule, PLACES)),
        MemoryConfig(budget=8 * MIB, mode=MemoryMode.STATIC),
        SchedulerConfig(max_num_seqs=32, max_model_len=CONTEXT, chunked_prefill=False),
    )
    for number in range(count):
        engine.submit(
            Request(
                request_id=str(number),
                prompt=(number,) * 10,
                params=SamplingParams(max_tokens=20, ignore_eos=True),
                arrival=0.0,
            )
        )
    most = ended = 0
    while engine.has_work:
        ended += sum(news.finish_reason is not None for news in engine.step())
        most = max(most, engine.snapshot().running)
    assert ended == count
    return most, engine.stats.preemptions


@pytest.mark.parametrize(
    ("rule", "at_once"),
    [
        (lambda prompt, answer: CONTEXT, 4),  # 256 + 32 + 8 + 4 places: four of 64
        (lambda prompt, answer: prompt + answer, 9),  # eight of 32, and the other 32
    ],
)
def test_as_many_run_as_have_their_whole_reservation(rule: object, at_once: int) -> None:
    assert served(rule, 20) == (at_once, 0)
