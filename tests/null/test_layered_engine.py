"""Prompts of which only some layers fit: every row is where it should be, whatever happens."""

from __future__ import annotations

import pytest
from fake_stream import FakeStream
from hypothesis import given, settings
from hypothesis import strategies as st
from parked_scene import CONTEXT, LAYERS, ParkedBench, TierKind

from ellm.core.config import MemoryConfig, SchedulerConfig, SchedulingPolicy
from ellm.core.plan import SequenceStep, StepPlan, StepShape
from ellm.core.request import Request
from ellm.core.sampling import SamplingParams
from ellm.core.sequence import Sequence
from ellm.core.units import KIB
from ellm.kv.layered import LayeredLot, resident_groups
from ellm.kv.parking import Whereabouts
from ellm.memory.balloon import Cost


def bench_of(
    chunks: int = 24,
    groups: int = 8,
    base: int = 400,
    top: int = 0,
    seqs: int = 4,
    layers_per_group: int = 1,
    ahead: bool = False,
    stream: FakeStream | None = None,
) -> ParkedBench:
    """`chunks` of 4 KiB; a group of 96 tokens takes three of them for each layer it has."""
    return ParkedBench(
        MemoryConfig(chunk_bytes=4 * KIB),
        SchedulerConfig(max_num_seqs=seqs, max_model_len=CONTEXT),
        TierKind(base * KIB, top * KIB),
        chunks * 4 * KIB,
        LAYERS[:1] * groups * layers_per_group,
        layers_per_group,
        ahead,
        stream,
    )


@settings(max_examples=25)
@given(data=st.data())
def test_prompts_that_do_not_fit_run_layer_by_layer(data: st.DataObject) -> None:
    bench = bench_of(
        chunks=data.draw(st.integers(40, 52)),
        base=data.draw(st.sampled_from([60, 120, 400])),
        top=data.draw(st.sampled_from([0, 0, 100])),
        seqs=data.draw(st.integers(2, 4)),
        ahead=data.draw(st.booleans()),
    )
    for turn in range(data.draw(st.integers(1, 5))):
        for _ in range(data.draw(st.integers(1, 3))):
            prompt = [turn] * data.draw(st.integers(20, 66))
            bench.submit(prompt, data.draw(st.integers(1, 30)))
        what = data.draw(
            st.sampled_from(["nothing", "nothing", "read", "write", "abort", "resize"])
        )
        if what == "abort":
            bench.abort(data.draw(st.sampled_from(sorted(bench.asked))))
        elif what == "resize":
            bench.pool.resize(data.draw(st.integers(bench.least, bench.most)))
        elif what != "nothing":
            data.draw(st.sampled_from(bench.stores)).arm(what, data.draw(st.integers(1, 8)))
        for _ in range(data.draw(st.integers(0, 6))):
            bench.step()
    bench.drain()
    bench.end()


class Ride:
    """One layered sequence over `bench`, step by step, without a scheduler."""

    def __init__(self, bench: ParkedBench, resident: int) -> None:
        self.bench, self.kv = bench, bench.memory.kv
        request = Request(request_id="r", prompt=tuple(range(7)), params=SamplingParams())
        self.sequence = Sequence(7, request, tokens=list(range(CONTEXT)))
        bench.executor.sequence = lambda seq_id: self.sequence
        assert self.layers.open(7, resident, CONTEXT)

    @property
    def layers(self) -> LayeredLot[object]:
        below = self.kv._below
        assert below is not None
        assert below.layers is not None
        return below.layers

    def step(self, count: int) -> bool:
        """Compute `count` tokens; False if the KV was lost on the way."""
        start = self.sequence.computed
        self.kv.begin(self.bench.clock.now())
        table = self.kv.reserve(7, start + count, 0)
        assert table is not None
        tokens = self.sequence.tokens[start : start + count]
        plan = StepPlan((SequenceStep(7, tokens, start, table),), StepShape(tokens=count))
        ferry = self.kv.ferry(plan)
        assert ferry is None or (ferry is not None and self.kv.is_layered(7))
        self.bench.executor.launch(plan, ferry)
        self.sequence.computed += count
        self.bench.tiers.check()
        self.kv.check()
        return ferry is None or not ferry.finish()

    def return_(self) -> bool:
        """Bring all layers back; whether they came."""
        assert self.kv.fetch(7, 0)
        while (tokens := self.kv.collect(7)) is None:
            assert self.kv.wait()
            self.kv.begin(self.bench.clock.now())
        assert tokens in (0, self.sequence.computed)
        return tokens > 0

    def end(self) -> None:
        self.kv.free(7)
        self.bench.end()


@pytest.mark.parametrize("per_group", [1, 2])
@pytest.mark.parametrize("resident", range(9))
def test_any_number_of_groups_may_stay(resident: int, per_group: int) -> None:
    bench = bench_of(chunks=60, layers_per_group=per_group, base=800)
    ride = Ride(bench, resident)
    for count in (40, 1, 1, 10, 1):
        assert ride.step(count)
    store = bench.memory.kv._store
    held = sum(store.chunks_in_group(53) for _ in range(resident))
    assert bench.pool.held("kv") == held, "windows are given up after every step"
    assert bench.tiers.used == (0 if resident == 8 else bench.tiers.used)
    assert ride.return_()
    assert bench.tiers.used == 0
    assert ride.step(1)
    ride.end()


def test_residents_are_spread_and_as_many_as_asked() -> None:
    for groups in range(1, 20):
        for count in range(1, groups + 1):
            stay = resident_groups(groups, count)
            assert len(set(stay)) == count
            assert stay == tuple(sorted(stay))
            assert 0 <= stay[0] <= stay[-1] < groups


@settings(max_examples=25)
@given(data=st.data())
def test_residents_go_below_one_by_one_and_everything_comes_back(data: st.DataObject) -> None:
    bench = bench_of(chunks=40, base=data.draw(st.sampled_from([200, 800])))
    ride = Ride(bench, data.draw(st.integers(0, 8)))
    lost = not ride.step(data.draw(st.integers(1, 40)))
    for _ in range(data.draw(st.integers(1, 6))):
        if lost or ride.layers.where(7) is Whereabouts.LOST:
            break
        what = data.draw(st.sampled_from(["step", "release", "read", "write"]))
        if what in ("read", "write"):
            bench.stores[0].arm(what, data.draw(st.integers(1, 6)))
        elif what == "release":
            before = bench.pool.held("kv")
            count = data.draw(st.integers(1, 12))
            freed = bench.memory.balloon.idle_at(Cost.LEAVING) and ride.layers.release(count)
            assert bench.pool.held("kv") == before - freed
            assert freed >= min(count, before)
        else:
            lost = not ride.step(data.draw(st.integers(1, 5)))
        bench.tiers.check()
    if not lost and ride.layers.where(7) is not Whereabouts.LOST and ride.return_():
        assert ride.step(1)
    ride.end()


def test_what_a_step_counts_on_stays_while_others_ask_for_memory() -> None:
    bench = bench_of(chunks=40)
    ride = Ride(bench, 4)
    assert ride.step(20)
    table = ride.kv.reserve(7, 21, 0)
    assert table is not None
    held = bench.pool.held("kv")
    assert bench.memory.balloon.idle_at(Cost.LEAVING) == 0
    assert ride.layers.release(3) == 0
    assert bench.pool.held("kv") == held
    ride.kv.begin(bench.clock.now())
    assert ride.layers.release(3) == 3, "the step was not to be"
    assert ride.step(1)
    ride.end()


def test_what_is_resident_does_not_go_below_to_make_room_for_its_own_return() -> None:
    bench = bench_of(chunks=40)
    ride = Ride(bench, 4)
    assert ride.step(40)
    bench.pool.resize(12)
    assert not ride.kv.fetch(7, 0), "sixteen chunks are more than there are"
    assert bench.pool.held("kv") == 8, "the four that are resident have two each"
    assert ride.step(1)
    bench.pool.resize(16)
    assert ride.return_()
    ride.end()


def test_one_alone_goes_on_layer_by_layer_when_its_rows_are_more_than_there_is() -> None:
    """The first takes sixteen of 36 chunks, a step of both nine, and the second 24."""
    bench = bench_of(chunks=36)
    bench.submit([1] * 60, 30)
    bench.submit([2] * 66, 20)
    bench.step()
    assert list(bench.layered or ()) == [1]
    assert len(bench.tokens["r1", 0]) == 1, "its first token is out"
    bench.step()
    assert bench.engine.snapshot().running == 1, "it waits until all its rows fit"
    bench.abort("r0")
    bench.pool.resize(22)
    for count in range(2, 8):
        bench.step()
        assert bench.engine.obstacle is None
        assert len(bench.tokens["r1", 0]) == count
        assert bench.memory.kv.is_layered(1)
    bench.pool.resize(bench.most)
    bench.drain()
    assert bench.engine.stats.preemptions == 0
    bench.end()


def crowd(chunks: int) -> ParkedBench:
    """Whoever can start may pass those who cannot.  A prompt of sixty tokens takes two chunks of
    each of eight groups, two windows of it four, and a step with it five more; from 65 on it is
    three chunks."""
    return ParkedBench(
        MemoryConfig(chunk_bytes=4 * KIB),
        SchedulerConfig(max_num_seqs=64, max_model_len=CONTEXT, policy=SchedulingPolicy.SLO),
        TierKind(8000 * KIB, keeps=False),
        chunks * 4 * KIB,
        LAYERS[:1] * 8,
    )


def test_layers_of_those_who_wait_make_way_for_the_next_prompt() -> None:
    bench = crowd(31)
    bench.submit([0] * 60, 30)
    bench.step()
    bench.submit([1] * 60, 8)
    while len(bench.tokens["r0", 0]) < 8:
        bench.step()
    layered = bench.layered
    assert layered is not None
    assert layered.resident == 6, "three of its groups, beside all that the first one needed"
    bench.submit([2] * 28, 8)
    bench.step()
    assert len(bench.tokens["r2", 0]) == 1
    assert layered.resident == 2
    assert sorted(layered) == [1, 2]
    bench.drain()
    bench.end()


def test_any_number_may_wait_with_their_first_token_out() -> None:
    bench = crowd(37)
    bench.submit([0] * 60, 36)
    bench.step()
    for number in range(1, 25):
        bench.submit([number] * 60, 8)
    while ("r0", 0) not in bench.ended:
        bench.step()
    assert {name for name, _ in bench.tokens} == {f"r{number}" for number in range(25)}
    bench.drain()
    bench.end()


def test_a_step_asks_for_room_once_however_many_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = crowd(37)
    bench.submit([0] * 60, 36)
    bench.step()
    for number in range(1, 25):
        bench.submit([number] * 60, 8)
    while len(bench.tokens) < 25:
        bench.step()
    kv, asked = bench.memory.kv, list[int]()
    could_hold = kv.could_hold

    def counted(tokens: int, soon: bool = True) -> bool:
        asked.append(tokens)
        return could_hold(tokens, soon)

    monkeypatch.setattr(kv, "could_hold", counted)
    bench.step()
    assert kv.parked == 24
    assert len(asked) <= 2, "one for those with 61 tokens, and one for who has 64"
