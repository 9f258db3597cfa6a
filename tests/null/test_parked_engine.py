"""The engine over a tier below: parking, fetching and layers, with every byte looked at."""

from __future__ import annotations

from fake_stream import FakeStream, Pace
from hypothesis import given, settings
from hypothesis import strategies as st
from parked_scene import CONTEXT, ParkedBench, TierKind

from ellm.core.config import (
    ALL_PARTS,
    ElasticPart,
    KvLayout,
    MemoryConfig,
    MemoryMode,
    SchedulerConfig,
    SchedulingPolicy,
)
from ellm.core.objectives import Objectives
from ellm.core.units import KIB
from ellm.scheduling.slo import SloPolicy

left_out = st.sets(st.sampled_from(list(ElasticPart)), max_size=2)
FAULTS = ("create", "map", "unmap", "destroy", "copy")
seconds = st.sampled_from([None, 0.01, 0.05, 0.3, 2.0])
sizes = st.sampled_from([1, 30, 100, 100, 300, 300, 2000])


@st.composite
def benches(draw: st.DrawFn, lags: bool = False) -> ParkedBench:
    """One that `lags` has a stream whose work is done when somebody waits for it, no sooner."""
    static = draw(st.integers(0, 7)) == 0
    memory = MemoryConfig(
        layout=draw(st.sampled_from(list(KvLayout))),
        chunk_bytes=draw(st.sampled_from([4 * KIB, 4 * KIB, 8 * KIB])),
        block_size=draw(st.sampled_from([4, 16])),
        prefix_caching=draw(st.booleans()),
        mode=MemoryMode.STATIC if static else MemoryMode.ELASTIC,
        parts=ALL_PARTS - draw(left_out),
    )
    limits = SchedulerConfig(
        max_num_seqs=draw(st.sampled_from([1, 2, 4, 6])),
        max_num_batched_tokens=draw(st.sampled_from([64, 5] if static else [None, None, 7, 40])),
        chunked_prefill=draw(st.integers(0, 3)) > 0,
        max_model_len=CONTEXT,
        policy=draw(st.sampled_from(list(SchedulingPolicy))),
        ttft_slo=draw(seconds),
        tpot_slo=draw(seconds),
    )
    tier = TierKind(
        base=draw(sizes) * KIB,
        top=draw(st.sampled_from([0, 0, 20, 100])) * KIB,
        rate=draw(st.sampled_from([3e5, 3e6, 1e8])),
        keeps=draw(st.integers(0, 4)) > 0,
    )
    return ParkedBench(
        memory,
        limits,
        tier,
        draw(st.integers(130 if static else 96, 190)) * KIB,
        layers_per_group=draw(st.sampled_from([1, 1, 2, 4])),
        ahead=draw(st.booleans()),
        stream=FakeStream(Pace.LAZY) if lags else None,
    )


def ask(bench: ParkedBench, data: st.DataObject, turn: int) -> None:
    """Submit a request of one of a few families of prompts."""
    prompt = [data.draw(st.integers(0, 2))] * data.draw(st.integers(1, 60)) + [turn]
    own = None
    if data.draw(st.booleans()):
        own = Objectives(ttft=data.draw(seconds), tpot=data.draw(seconds))
    bench.submit(
        prompt,
        data.draw(st.integers(1, 30)),
        data.draw(st.sampled_from([1, 1, 1, 3])),
        data.draw(st.sampled_from([0, 0, 1])),
        data.draw(st.sampled_from([None, None, "salt"])),
        own,
    )


@settings(max_examples=40)
@given(bench=benches(), data=st.data())
def test_whatever_goes_below_every_byte_and_every_token_is_right(
    bench: ParkedBench, data: st.DataObject
) -> None:
    play(bench, data)


def play(bench: ParkedBench, data: st.DataObject) -> None:
    """Requests come and go, memory gets short, stores and drivers fail; nothing goes wrong."""
    refused = False
    kinds = ["nothing", "nothing", "abort", "resize", "write", "read", "refuse"]
    for turn in range(data.draw(st.integers(1, 8))):
        for _ in range(data.draw(st.integers(0, 4))):
            ask(bench, data, turn)
        what = data.draw(st.sampled_from(kinds))
        if what == "abort" and bench.asked:
            bench.abort(data.draw(st.sampled_from(sorted(bench.asked))))
        elif what == "resize":
            bench.pool.resize(data.draw(st.integers(bench.least, bench.most)))
        elif what in ("write", "read") and bench.stores:
            data.draw(st.sampled_from(bench.stores)).arm(what, data.draw(st.integers(1, 3)))
        elif what == "refuse":
            refused = True
            bench.driver.arm(data.draw(st.sampled_from(FAULTS)), data.draw(st.integers(1, 3)))
        for _ in range(data.draw(st.integers(0, 6))):
            bench.step()
    bench.drain(refused=refused)
    bench.driver.arm("", 0)
    bench.end()


def small_bench(
    chunks: int = 24,
    rate: float = 1e8,
    tier: int = 300,
    slo: bool = False,
    prefixes: bool = False,
    step: int | None = None,
) -> ParkedBench:
    """`chunks` of 4 KiB; 96 tokens take twelve, and the smallest step five more."""
    return ParkedBench(
        MemoryConfig(chunk_bytes=4 * KIB, prefix_caching=prefixes),
        SchedulerConfig(
            max_num_seqs=8,
            max_num_batched_tokens=step,
            max_model_len=CONTEXT,
            policy=SchedulingPolicy.SLO if slo else SchedulingPolicy.FCFS,
        ),
        TierKind(tier * KIB, rate=rate),
        chunks * 4 * KIB,
    )


def finish(bench: ParkedBench) -> None:
    bench.drain()
    bench.end()


def test_one_that_is_taken_back_alone_goes_on_at_once() -> None:
    bench = small_bench(rate=2e6)
    bench.submit([1] * 50, 5)
    bench.step()
    assert bench.engine.yield_memory()
    bench.step()
    assert (bench.engine.obstacle, len(bench.tokens["r0", 0])) == (None, 2)
    finish(bench)


def test_one_whose_bytes_were_lost_below_is_computed_again_at_once() -> None:
    bench = small_bench(rate=2e6)
    bench.submit([1] * 50, 5)
    bench.step()
    bench.stores[0].arm("write", 1)
    assert bench.engine.yield_memory()
    below = bench.memory.kv._below
    assert below is not None
    assert below.release(1) > 0, "its rows are wanted now"
    bench.step()
    assert (bench.engine.obstacle, len(bench.tokens["r0", 0])) == (None, 2)
    finish(bench)


def test_a_beginning_that_leaves_no_room_for_the_rest_is_not_shared_by_one_alone() -> None:
    """The kept 64 tokens take eight chunks, and only four of the rest fit beside them."""
    bench = small_bench(chunks=18, tier=1, prefixes=True)
    bench.submit([1] * 65, 1)
    bench.drain()
    for room in range(bench.least, 19):
        bench.pool.resize(room)
        bench.submit([1] * 65 + [2] * 20, 2)
        bench.step()
        assert bench.engine.obstacle is None, room
        bench.drain()
    bench.end()


def test_one_that_fills_the_tier_may_come_back_from_it() -> None:
    """Newcomers may fill only a part of the tier; what is there already makes it no fuller."""
    bench = small_bench(slo=True, tier=40, step=40)
    bench.submit([1] * 64, 5)
    bench.step()
    assert bench.engine.yield_memory()
    policy = bench.engine._policy
    assert isinstance(policy, SloPolicy)
    assert policy._buffer is not None
    policy._buffer.size = 1
    bench.step()
    assert bench.engine.obstacle is None
    finish(bench)


def test_a_step_that_lacks_only_what_is_being_copied_waits_for_the_copy() -> None:
    bench = small_bench(chunks=20, rate=2e5, prefixes=True)
    bench.submit([1] * 80, 1)
    bench.step()
    kept = bench.memory.kv.kept
    assert kept is not None
    kept.copy_down(20)
    bench.submit([2] * 80, 2)
    bench.step()
    assert bench.engine.obstacle is None
    finish(bench)
