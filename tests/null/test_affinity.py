"""Requests go where their beginnings are, unless others have much less to do."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from ellm.core.config import MemoryConfig, SchedulerConfig
from ellm.sim.affinity import Affinity
from ellm.sim.anatomy.shapes import find_transformer
from ellm.sim.cluster import Dispatch
from ellm.sim.deployment import Deployment
from ellm.sim.devices.known import find_device
from ellm.sim.parallel.plan import uniform
from ellm.sim.scenario import Outcome, Scenario, simulate
from ellm.sim.workload.item import Item

BLOCK = 16

paths = st.lists(st.tuples(st.integers(0, 2), st.integers(1, 6)), max_size=20)


def item(blocks: tuple[int, ...], more: int = 0, arrival: float = 0.0) -> Item:
    """One whose prompt is `blocks`, and `more` tokens of its own."""
    prompt = max(1, len(blocks) * BLOCK + more)
    return Item(prompt, 4, arrival, blocks=blocks, block_tokens=BLOCK)


@given(paths)
def test_what_a_seat_has_served_it_is_known_for(asked: list[tuple[int, int]]) -> None:
    affinity = Affinity(3)
    served: list[set[int]] = [set(), set(), set()]
    for number, (seat, length) in enumerate(asked):
        # Block numbers stand for all before them: 10 · depth + branch.
        one = item(tuple(10 * depth + number % 2 for depth in range(length)), more=number % 2)
        known = affinity.known(one)
        for place in range(3):
            count = 0
            while count < length and one.blocks[count] in served[place]:
                count += 1
            assert known[place] == min(count * BLOCK, one.prompt_tokens - 1)
        affinity.serve(one, seat)
        served[seat].update(one.blocks)


def conversations(users: int, turns: int) -> list[Item]:
    """Each user asks again and again, with all that was said before in front."""
    rng = random.Random(1)
    said = [[0, 1000 * (user + 1)] for user in range(users)]
    items = []
    for turn in range(turns):
        for user in rng.sample(range(users), users):
            said[user] += [1000 * (user + 1) + 10 * (turn + 1) + k for k in range(4)]
            items.append(item(tuple(said[user]), more=5, arrival=0.05 * len(items)))
    return items


def test_conversations_stay_where_they_are_cached() -> None:
    transformer = find_transformer("llama-3.2-1b")
    deployment = Deployment.by_roofline(
        transformer,
        find_device("H100"),
        plan=uniform(transformer, replicas=3),
        memory=MemoryConfig(prefix_caching=True, block_size=BLOCK),
        limits=SchedulerConfig(max_model_len=2048),
    )
    items = conversations(users=8, turns=6)

    def run(dispatch: Dispatch) -> Outcome:
        return simulate(Scenario(deployment=deployment, items=items, dispatch=dispatch))

    near, anywhere = run(Dispatch.PREFIX), run(Dispatch.LEAST_LOADED)
    for outcome in (near, anywhere):
        assert outcome.report.finished == len(items)
    whole = sum(each.prompt_tokens // BLOCK * BLOCK for each in items)
    new = sum(4 * BLOCK for _ in items) + 8 * BLOCK + 3 * BLOCK
    assert near.report.cached_tokens >= whole - new
    assert anywhere.report.cached_tokens < 0.8 * near.report.cached_tokens


def test_a_beginning_does_not_keep_requests_in_a_long_queue() -> None:
    transformer = find_transformer("llama-3.2-1b")
    deployment = Deployment.by_roofline(
        transformer,
        find_device("H100"),
        plan=uniform(transformer, replicas=2),
        memory=MemoryConfig(prefix_caching=True, block_size=BLOCK),
        limits=SchedulerConfig(max_model_len=2048),
    )
    items = [item((0,), more=1000, arrival=0.001 * n) for n in range(20)]
    scenario = Scenario(deployment=deployment, items=items, dispatch=Dispatch.PREFIX)
    both = simulate(scenario).report
    alone = simulate(
        Scenario(
            deployment=Deployment.by_roofline(
                transformer,
                find_device("H100"),
                memory=MemoryConfig(prefix_caching=True, block_size=BLOCK),
                limits=SchedulerConfig(max_model_len=2048),
            ),
            items=items,
        )
    ).report
    assert both.finished == alone.finished == len(items)
    assert both.ttft.mean < 0.7 * alone.ttft.mean
