"""Requests in virtual time: who is served when, on how many engines, and with what memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ellm.core.config import MemoryConfig, MemoryMode, SchedulerConfig
from ellm.core.errors import BudgetError
from ellm.core.objectives import Objectives
from ellm.core.units import GIB
from ellm.scheduling.coefficients import Coefficients
from ellm.sim.anatomy.shapes import find_transformer
from ellm.sim.cluster import Dispatch
from ellm.sim.costs.stage import StageTime
from ellm.sim.deployment import CHUNK_BYTES, Deployment
from ellm.sim.devices.device import Overhead
from ellm.sim.devices.known import find_device
from ellm.sim.parallel.plan import CellPlan, Plan, uniform
from ellm.sim.scenario import Outcome, Scenario, simulate
from ellm.sim.workload.item import Item

LLAMA = find_transformer("llama-3.1-8b")
OVERHEAD = Overhead(
    step=0,
    layer=0,
    launch=0,
    sequence=0,
    request=1.0,
    completion=2.0,
    prompt_token=0.01,
    output_token=0.5,
)
NONE = replace(OVERHEAD, request=0.0, completion=0.0, prompt_token=0.0, output_token=0.0)
LIMITS = SchedulerConfig(max_num_seqs=16, max_model_len=4096)


def timed(cost: Coefficients, ranks: int = 1) -> StageTime:
    return StageTime.of(ranks, {ranks: cost}, ())


def deployment(
    plan: Plan | None = None,
    cost: Coefficients | None = None,
    overhead: Overhead = NONE,
    limits: SchedulerConfig = LIMITS,
    memory: MemoryConfig | None = None,
) -> Deployment:
    """Stages that each cost `cost`, one second a step unless said otherwise."""
    plan = plan or uniform(LLAMA)
    made = Deployment.by_roofline(
        LLAMA,
        replace(find_device("A100-80GB"), overhead=overhead, driver=None),
        plan=plan,
        limits=limits,
        memory=memory or MemoryConfig(),
    )
    stage = timed(cost or Coefficients.even(step=1.0), plan.ranks(LLAMA))
    return replace(made, stages=(stage,) * plan.stages)


def run(items: Sequence[Item], *args: object, **kwargs: object) -> Outcome:
    made = deployment(*args, **kwargs)  # type: ignore[arg-type]
    return simulate(Scenario(deployment=made, items=items, dispatch=Dispatch.ROUND_ROBIN))


def test_a_lone_request_waits_for_the_server_its_prompt_and_each_token() -> None:
    cost = Coefficients.even(token=0.1, step=1.0)
    (one,) = run([Item(20, 3, arrival=5.0)], cost=cost, overhead=OVERHEAD).served
    reached = 1.0 + 20 * 0.01
    assert one.ttft == pytest.approx(reached + (1.0 + 20 * 0.1) + 0.5)
    assert one.tpot == pytest.approx(1.1)
    assert one.latency == pytest.approx(one.ttft + 2 * 1.1 + 2.0)


def test_who_comes_during_a_step_waits_for_its_end() -> None:
    first, second = run([Item(10, 3), Item(10, 1, arrival=0.5)]).served
    assert (first.first, first.last) == (1.0, 3.0)
    assert second.first == 2.0


def test_the_longest_time_between_tokens_is_that_of_another_prompt() -> None:
    cost = Coefficients.even(token=0.1, step=1.0)
    (alone,) = run([Item(10, 4)], cost=cost).served
    first, second = run([Item(10, 4), Item(100, 1, arrival=0.5)], cost=cost).served
    assert alone.longest == pytest.approx(1.1)
    assert first.longest == pytest.approx(1.0 + 101 * 0.1)
    assert second.longest == 0.0


def test_a_pipeline_serves_as_many_lanes_as_stages_at_full_pace() -> None:
    plan = uniform(LLAMA, stages=2)
    alone, pair, trio = (
        run([Item(10, 10)] * count, plan=plan, limits=replace(LIMITS, max_num_seqs=2))
        for count in (1, 2, 3)
    )
    assert alone.served[0].tpot == pytest.approx(2.0)
    assert [each.tpot for each in pair.served] == pytest.approx([2.0, 2.0])
    # Each lane has room for one: the third waits for the first.
    assert trio.served[2].ttft > pair.served[0].latency
    assert alone.report.busy == pytest.approx(0.5)
    assert pair.report.busy > 0.9


def test_copies_serve_requests_in_turn_or_where_least_is_to_do() -> None:
    items = [Item(10, 100), Item(10, 1), Item(10, 1), Item(10, 1)]
    made = deployment(uniform(LLAMA, replicas=2), limits=replace(LIMITS, max_num_seqs=1))
    waits = {}
    for dispatch in Dispatch:
        outcome = simulate(Scenario(deployment=made, items=items, dispatch=dispatch))
        waits[dispatch] = sorted(each.ttft for each in outcome.served)
    assert waits[Dispatch.ROUND_ROBIN][-1] > 99
    assert waits[Dispatch.LEAST_LOADED][-1] < 10


@given(st.lists(st.tuples(st.integers(1, 300), st.integers(1, 9), st.floats(0, 9)), max_size=12))
def test_copies_that_take_turns_are_servers_of_their_own(
    asked: list[tuple[int, int, float]],
) -> None:
    items = sorted((Item(*each) for each in asked), key=lambda item: item.arrival)
    cost = Coefficients.even(token=0.01, kv_token=0.001, step=0.3)
    both = run(items, uniform(LLAMA, replicas=2), cost).served
    for first in (0, 1):
        alone = run(items[first::2], uniform(LLAMA), cost).served
        assert [(each.first, each.last) for each in both[first::2]] == [
            (each.first, each.last) for each in alone
        ]


def test_ranks_step_together() -> None:
    plan = Plan(1, 1, 4, (CellPlan(4), CellPlan(1)))
    cost = Coefficients.even(token=1.0)
    outcome = run([Item(10, 2), Item(50, 2)], plan=plan, cost=cost)
    # The shorter prompt ends with the longer one's step.
    assert [each.first for each in outcome.served] == [50.0, 50.0]
    assert [each.last for each in outcome.served] == [51.0, 51.0]
    assert outcome.report.devices == 4


ITEMS = st.lists(
    st.builds(
        Item,
        prompt_tokens=st.integers(1, 1500),
        output_tokens=st.integers(1, 40),
        arrival=st.floats(0, 50),
    ),
    min_size=1,
    max_size=30,
)
PLANS = [
    uniform(LLAMA),
    uniform(LLAMA, replicas=2, stages=2),
    Plan(1, 1, 4, (CellPlan(2), CellPlan(1))),
]


@settings(max_examples=25, deadline=None)
@given(ITEMS, st.sampled_from(PLANS), st.booleans(), st.sampled_from(list(MemoryMode)))
def test_every_request_gets_all_its_tokens_and_the_books_balance(
    items: list[Item], plan: Plan, tight: bool, mode: MemoryMode
) -> None:
    items = sorted(items, key=lambda item: item.arrival)
    memory = MemoryConfig(
        budget=18 * GIB if tight else None,
        mode=mode,
        offload_bytes=GIB if tight else 0,
        prefix_caching=True,
    )
    limits = replace(LIMITS, max_model_len=2048)
    first, second = (run(items, plan=plan, limits=limits, memory=memory) for _ in range(2))
    assert first == second
    assert [each.output for each in first.served] == [item.output_tokens for item in items]
    for each in first.served:
        assert each.ttft > 0
        assert each.finished
    # Whatever the plan, it is one device that is told of; each lane may lose parts of chunks.
    budget = deployment(plan, limits=limits, memory=memory).budget
    for sample in first.report.memory:
        total = sample.weights + sample.kv + sample.activations + sample.free
        assert 0 <= budget - total <= 2 * plan.stages * CHUNK_BYTES


def test_what_is_too_long_is_refused_and_harms_nobody() -> None:
    outcome = run([Item(5000, 10), Item(10, 2)], limits=LIMITS)
    assert outcome.served[0].refused is not None
    assert outcome.served[1].finished
    assert (outcome.report.refused, outcome.report.finished) == (1, 1)
    assert any("4096" in reason for reason in outcome.report.reasons)


def test_goodput_counts_those_who_met_both_objectives() -> None:
    made = deployment(cost=Coefficients.even(token=0.01, step=0.09))
    items = [Item(10, 11), Item(200, 11, arrival=10.0), Item(10, 1, arrival=20.0)]
    wished = Objectives(ttft=1.0, tpot=0.15)
    report = simulate(Scenario(deployment=made, items=items, wished=wished)).report
    assert report.goodput is not None
    assert report.goodput.ttft_met == pytest.approx(2 / 3)
    assert report.goodput.tpot_met == 1.0
    assert report.goodput.rate == pytest.approx(2 / report.duration)


def test_weights_that_do_not_fit_are_said_with_numbers() -> None:
    large = find_transformer("llama-3.1-70b")
    made = Deployment.by_roofline(large, find_device("A100-80GB"))
    with pytest.raises(BudgetError, match=r"131 GiB of weights.*A100-80GB"):
        made.lanes()
