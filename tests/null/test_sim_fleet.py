"""Several models on one device in virtual time: what they take, hold and answer."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ellm.core.config import MemoryConfig, MemoryMode, SchedulerConfig, SchedulingPolicy
from ellm.core.errors import BudgetError, ConfigError
from ellm.core.load import StepLoad
from ellm.core.units import GIB, KIB, MIB
from ellm.engine.residency import RETRY, SLICE
from ellm.scheduling.coefficients import Coefficients
from ellm.sim.anatomy.shapes import find_transformer
from ellm.sim.arriving import reaching
from ellm.sim.clock import VirtualClock
from ellm.sim.deployment import CHUNK_BYTES, Deployment
from ellm.sim.devices.device import Overhead
from ellm.sim.devices.known import find_device
from ellm.sim.helper import TimedHelper
from ellm.sim.household import Household, Member
from ellm.sim.parallel.plan import uniform
from ellm.sim.placement import Demand, balanced, housed
from ellm.sim.replay import SimModel
from ellm.sim.workload.item import Item

CHUNK = 4 * KIB
NOTHING = Overhead(
    step=0, layer=0, launch=0.0, sequence=0, request=0, completion=0, prompt_token=0, output_token=0
)
SOME = replace(NOTHING, request=0.2, completion=0.03, prompt_token=0.001, output_token=0.004)
LIMITS = SchedulerConfig(max_num_seqs=4, max_model_len=64, max_num_batched_tokens=64)
STEP, TOKEN = 0.01, 0.001


def member(name: str, chunks: int, **more: int) -> Member:
    """A model with weights of `chunks` chunks."""
    model = SimModel(weight_bytes=chunks * CHUNK, cost=Coefficients.even(token=TOKEN, step=STEP))
    return Member(name=name, model=model, limits=LIMITS, **more)


def household(
    chunks: int,
    *members: Member,
    overhead: Overhead = NOTHING,
    load_seconds: float = 0.01,
    idle_release: float | None = None,
    mode: MemoryMode = MemoryMode.ELASTIC,
) -> Household:
    """On `chunks` chunks, of which `load_seconds` bring one from below."""
    memory = MemoryConfig(budget=chunks * CHUNK, chunk_bytes=CHUNK, mode=mode)
    return Household(members, memory, overhead, CHUNK / load_seconds, idle_release)


def test_one_request_takes_what_its_steps_and_the_server_take() -> None:
    home = household(100, member("a", 10), overhead=SOME)
    home.run([Item(20, 5, arrival=3.0)])
    (served,) = home.served
    first = SOME.request + 20 * SOME.prompt_token + STEP + 20 * TOKEN + SOME.output_token
    assert served.ttft == pytest.approx(first)
    assert served.tpot == pytest.approx(STEP + TOKEN)
    assert served.latency == pytest.approx(first + 4 * (STEP + TOKEN) + SOME.completion)
    assert home.loads == 0


def test_a_sleeping_model_wakes_in_the_time_its_weights_take() -> None:
    home = household(100, member("a", 60), member("b", 60))
    assert home.loads == 0  # both have been there; b still is
    home.run([Item(20, 5, arrival=1.0, model=0)])
    (served,) = home.served
    assert home.loads == 1
    assert 0.6 - 1e-9 <= served.ttft - STEP - 20 * TOKEN <= 0.6 + RETRY


def test_a_model_that_nobody_asks_sleeps_in_the_end() -> None:
    home = household(100, member("a", 10), member("b", 10), idle_release=5.0)
    home.run([Item(20, 5, arrival=at, model=0) for at in (0.0, 2.0, 4.0, 6.0, 8.0, 30.0)])
    assert home.loads == 1
    asleep = {sample.time: sample.asleep for sample in home.timeline.samples}
    assert max(asleep.values()) == 2
    assert all(count <= 1 for time, count in asleep.items() if time < 8.0)


def test_fixed_shares_stay_with_those_who_have_them() -> None:
    share = 34
    members = [member(name, 10, floor=share * CHUNK, ceiling=share * CHUNK) for name in ("a", "b")]
    items = [Item(40, 20, arrival=0.0, model=0)] * 12
    fixed = household(2 * share, *members, mode=MemoryMode.STATIC)
    fixed.run(items)
    assert max(sample.held[0] for sample in fixed.timeline.samples) <= share * CHUNK
    free = household(2 * share, member("a", 10), member("b", 10))
    free.run(items)
    assert max(sample.held[0] for sample in free.timeline.samples) > share * CHUNK
    assert fixed.now > free.now
    with pytest.raises(BudgetError, match="floor of 34"):
        household(2 * share - 1, *members, mode=MemoryMode.STATIC)


def test_nobody_yields_to_a_model_whose_weights_would_not_fit_anyway() -> None:
    home = household(100, member("a", 60), member("b", 50))
    items = [Item(20, 40, arrival=0.1 * n, model=0) for n in range(100)]
    items.insert(20, Item(20, 5, arrival=1.95, model=1))
    home.run(items)
    # Those who ran when a's time was up, and nobody before.
    assert 0 < home.fleet.model("a").engine.stats.preemptions <= LIMITS.max_num_seqs
    (served,) = (each for each in home.served if each.model == 1)
    assert SLICE < served.ttft < SLICE + 1.0


def test_nobody_sleeps_for_a_model_whose_weights_would_not_fit_anyway() -> None:
    home = household(120, member("a", 60), member("b", 70), member("c", 20))
    asked = [(0.05, 2)] + [(0.1 * n, 0) for n in range(30)] + [(1.0, 1), (2.5, 2)]
    home.run([Item(20, 30, arrival=at, model=model) for at, model in sorted(asked)])
    # What c is asked while a runs and b waits it answers at once.
    late = [each.ttft for each in home.served if each.model == 2]
    assert late[1] < 10 * STEP
    assert all(each.finished for each in home.served)


@pytest.mark.parametrize(("left", "together"), [(10, False), (40, True)])
def test_models_take_turns_whose_weights_leave_nothing_to_work_with(
    left: int, together: bool
) -> None:
    home = household(1000, member("a", 400), member("b", 600 - left), load_seconds=0.001)
    home.run([Item(20, 40, arrival=0.1 * n, model=n % 2) for n in range(40)])
    assert all(each.finished for each in home.served)
    both = [min(sample.held) >= 400 * CHUNK for sample in home.timeline.samples]
    assert any(both) is together


def test_a_request_above_the_context_is_refused_and_others_are_served() -> None:
    home = household(100, member("a", 10))
    home.run([Item(80, 5), Item(20, 5, arrival=0.1)])
    assert [each.refused is None for each in home.served] == [False, True]
    assert home.served[1].finished


requests = st.lists(
    st.tuples(st.integers(1, 40), st.integers(1, 20), st.floats(0, 4), st.integers(0, 3)),
    max_size=25,
)


@settings(deadline=None, max_examples=40)
@given(
    requests,
    st.lists(st.integers(1, 50), min_size=1, max_size=4),
    st.integers(80, 200),
    st.sampled_from([None, 0.5, 3.0]),
    st.sampled_from([NOTHING, SOME]),
)
def test_everybody_gets_every_token_whatever_fits(
    asked: list[tuple[int, int, float, int]],
    sizes: list[int],
    chunks: int,
    idle_release: float | None,
    overhead: Overhead,
) -> None:
    items = sorted(
        (Item(prompt, output, arrival, model) for prompt, output, arrival, model in asked),
        key=lambda item: item.arrival,
    )

    def run() -> Household:
        home = household(
            chunks,
            *(member(f"m{number}", size) for number, size in enumerate(sizes)),
            overhead=overhead,
            idle_release=idle_release,
        )
        home.run(items)
        home.check()
        return home

    home = run()
    assert sorted((s.arrival, s.prompt, s.output) for s in home.served) == sorted(
        (item.arrival, item.prompt_tokens, item.output_tokens) for item in items
    )
    for served in home.served:
        least = overhead.request + overhead.output_token + STEP + served.prompt * TOKEN
        assert served.ttft >= least - 1e-9
        assert served.tpot is None or served.tpot >= STEP + TOKEN - 1e-9
    for sample in home.timeline.samples:
        assert sum(sample.held) <= chunks * CHUNK
    assert run().served == home.served


def test_jobs_end_one_after_another() -> None:
    clock = VirtualClock(10.0)
    helper = TimedHelper(clock)
    told: list[object] = []

    def job(seconds: float, answer: str) -> str:
        helper.spend(seconds)
        return answer

    def fail() -> None:
        helper.spend(0.5)
        raise ValueError("no")

    assert helper.next_end == math.inf
    for one in (partial(job, 2.0, "first"), fail, partial(job, 1.0, "last")):
        helper.do(one, lambda answer, error: told.append(answer or str(error)))
    for seconds, expected in (
        (0.0, []),
        (2.0, ["first"]),
        (0.5, ["no"]),
        (0.9, []),
        (0.1, ["last"]),
    ):
        clock.advance(seconds)
        helper.settle()
        assert told == expected
        told.clear()
    assert helper.next_end == math.inf


@given(st.lists(st.tuples(st.floats(0, 10), st.integers(1, 1000)), max_size=30))
def test_requests_reach_an_engine_in_order_and_each_in_its_time(
    sent: list[tuple[float, int]],
) -> None:
    items = [Item(prompt, 1, arrival) for arrival, prompt in sorted(sent)]
    reached = list(reaching(items, SOME))
    times = [time for time, _ in reached]
    assert times == sorted(times)
    assert sorted(item.arrival for _, item in reached) == [item.arrival for item in items]
    for time, item in reached:
        assert time == pytest.approx(item.arrival + 0.2 + 0.001 * item.prompt_tokens)


demands = st.lists(
    st.builds(Demand, st.integers(1, 100), st.floats(0, 10, allow_subnormal=False)), max_size=20
)


@given(demands, st.integers(1, 5), st.integers(50, 400))
def test_models_are_placed_once_and_never_beyond_the_room(
    asked: list[Demand], devices: int, room: int
) -> None:
    everywhere = balanced(asked, devices)
    assert sorted(n for place in everywhere for n in place) == list(range(len(asked)))
    for places in (balanced(asked, devices, room), housed(asked, devices, room)):
        assert len(places) == devices
        placed = [n for place in places for n in place]
        assert len(placed) == len(set(placed))
        assert all(sum(asked[n].size for n in place) <= room for place in places)
    if sum(d.size for d in asked) <= room - 100:
        assert sum(map(len, housed(asked, devices, room))) == len(asked)


def test_who_is_asked_least_for_its_size_stays_away() -> None:
    asked = [Demand(60, 1.0), Demand(60, 9.0), Demand(30, 5.0), Demand(30, 0.1)]
    assert housed(asked, 1, 100) == [[1, 2]]
    assert housed(asked, 2, 100) == [[1, 3], [0, 2]]
    assert balanced(asked, 2) == [[1], [0, 2, 3]]


def test_a_deployment_on_one_device_can_live_in_a_household() -> None:
    transformer, device = find_transformer("llama-3.2-1b"), find_device("H100")
    limits = SchedulerConfig(
        max_model_len=2048, policy=SchedulingPolicy.SLO, ttft_slo=0.2, tpot_slo=0.02
    )
    model = Deployment.by_roofline(transformer, device, limits=limits).sole()
    members = [Member(name=name, model=model, limits=limits) for name in "abcd"]
    memory = MemoryConfig(budget=8 * GIB, chunk_bytes=CHUNK_BYTES)
    home = Household(members, memory, device.overhead, 20e9)
    home.run([Item(100, 50, arrival=0.3 * n, model=n // 2) for n in range(8)])
    assert all(each.finished for each in home.served)
    assert home.loads >= 1  # 2.3 GiB each: three fit
    awake = [each for each in home.served if each.ttft < 0.1]
    lone = model.cost.seconds(StepLoad.of([(100, 0)]))
    assert lone < min(each.ttft for each in awake) - device.overhead.request < lone + 0.001
    with pytest.raises(ConfigError, match="2 devices"):
        Deployment.by_roofline(transformer, device, plan=uniform(transformer, tensor=2)).sole()
    assert model.weight_bytes == pytest.approx(2.47e9, rel=0.01)
    assert model.weight_bytes > 2 * GIB + 100 * MIB
