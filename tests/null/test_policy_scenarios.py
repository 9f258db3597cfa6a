"""What becomes of many requests under a policy, in virtual time."""

from __future__ import annotations

import random

import pytest
from small_server import SmallServer, known_cost

from ellm.core.objectives import Objectives
from ellm.core.sequence import Sequence
from ellm.scheduling.cost import StepCost
from ellm.scheduling.fcfs import FcfsPolicy
from ellm.scheduling.slo import OVERDUE_EVERY, PATIENCE, SloPolicy

OBJECTIVES = Objectives(ttft=1.0, tpot=0.03)


def served(name: str, objectives: Objectives = OBJECTIVES, memory: int = 10**9) -> SmallServer:
    policy = FcfsPolicy() if name == "fcfs" else SloPolicy(objectives, known_cost())
    return SmallServer(policy, objectives, memory=memory)


def arrivals(rate: float, seconds: float, seed: int) -> list[tuple[float, int, int]]:
    """(moment, prompt tokens, output tokens) of a Poisson stream of mixed lengths."""
    rng = random.Random(seed)
    found, moment = [], 0.0
    while (moment := moment + rng.expovariate(rate)) < seconds:
        prompt = 1 + int(min(8000.0, rng.lognormvariate(6.2, 1.0)))
        output = 1 + int(min(1000.0, rng.lognormvariate(4.5, 0.8)))
        found.append((moment, prompt, output))
    return found


def serve(server: SmallServer, stream: list[tuple[float, int, int]], until: float) -> None:
    """Submit each arrival at its moment, and step until `until`."""
    coming = iter(stream)
    following = next(coming, None)
    while server.now < until:
        while following is not None and following[0] <= server.now:
            moment, prompt, output = following
            server.submit(prompt, output, arrival=moment)
            following = next(coming, None)
        server.step()


@pytest.mark.parametrize("name", ["fcfs", "slo"])
def test_everyone_is_served_in_the_end(name: str) -> None:
    server = served(name, memory=20_000)
    stream = arrivals(rate=10.0, seconds=10.0, seed=1)
    serve(server, stream, until=10.0)
    server.finish()
    assert len(server.done) == len(stream)


def test_a_prompt_waits_for_the_pace_of_those_who_decode() -> None:
    stall, kept = served("fcfs"), served("slo")
    for server in (stall, kept):
        for _ in range(10):
            server.submit(100, 200)
        for _ in range(20):
            server.step()
        server.submit(8000, 5)
        server.finish()
    assert max(stall.steps) > 0.2
    assert stall.goodput.outcomes["met"] == 11
    # Nobody bears more than 32 sure tokens' savings at once, and nobody's mean suffers.
    assert max(kept.steps[1:]) < 0.8
    assert kept.goodput.outcomes["tpot"] + kept.goodput.outcomes["both"] == 0


def test_a_stream_of_long_prompts_spoils_nobodys_pace() -> None:
    misses = {}
    for name in ("fcfs", "slo"):
        server = served(name)
        stream = [(0.4 * i, 3000, 100) for i in range(40)]
        serve(server, stream, until=25.0)
        outcomes = server.goodput.outcomes
        misses[name] = outcomes["tpot"] + outcomes["both"]
    assert misses["fcfs"] > 20
    assert misses["slo"] <= 3


def test_a_lost_cause_does_not_drag_others_down() -> None:
    met = {}
    for name in ("fcfs", "slo"):
        server = served(name)
        lost = [server.submit(8000, 10, arrival=-2.0) for _ in range(10)]
        fresh = [server.submit(200, 10) for _ in range(10)]
        server.finish()
        met[name] = server.goodput.outcomes["met"]
        assert {s.seq_id for s in server.done} == {s.seq_id for s in [*lost, *fresh]}
    assert met == {"fcfs": 0, "slo": 10}


def overloaded(server: SmallServer, victim: Sequence, seconds: float) -> int:
    """Newcomers that can still make it, more than the server can serve; how many had a turn.

    Counts the first tokens of others from the moment `victim` was overdue to its own.
    """
    deadline = victim.request.arrival + (OBJECTIVES.ttft or 0.0) + PATIENCE
    since = 0
    everyone: list[Sequence] = []
    while server.now < seconds and victim.first_token is None:
        while len(everyone) < 20 * server.now:
            everyone.append(server.submit(1000, 5))
        before = sum(s.first_token is not None for s in everyone)
        server.step()
        if server.now > deadline:
            since += sum(s.first_token is not None for s in everyone) - before
    return since


def test_nobody_starves_behind_those_who_can_make_it() -> None:
    server = served("slo", Objectives(ttft=1.0))
    server.now = 1.0  # twenty newcomers are there from the start
    victim = server.submit(8000, 10, arrival=server.now - 2.0)
    others = overloaded(server, victim, seconds=120.0)
    assert victim.first_token is not None
    assert victim.first_token > PATIENCE - 5.0  # it was passed for as long as may be
    # Its turn comes within so many first tokens; its prompt then takes 8000 tokens of steps.
    assert others < OVERDUE_EVERY + 30


def test_memory_is_kept_for_who_has_waited_too_long() -> None:
    server = served("slo", memory=4000)
    for _ in range(10):
        server.submit(300, 60)
    server.step()
    victim = server.submit(3500, 10)
    others = 0
    while server.now < 120.0 and victim.first_token is None:
        if len(server.queue) < 5:  # small ones, always ready to take what is given back
            server.submit(300, 60)
            others += 1
        server.step()
    assert victim.first_token is not None
    assert victim.first_token > PATIENCE
    assert others > 50


def test_goodput_holds_through_overload() -> None:
    """Overload costs first come first served everything, and objectives nothing."""
    met = {}
    for name in ("fcfs", "slo"):
        for rate in (4.0, 16.0):
            server = served(name)
            serve(server, arrivals(rate, 15.0, seed=2), until=15.0)
            met[name, rate] = server.goodput.outcomes["met"]
    assert met["slo", 4.0] >= met["fcfs", 4.0]
    assert met["slo", 16.0] > 1.2 * met["slo", 4.0]
    assert met["fcfs", 16.0] < 0.1 * met["slo", 16.0]


def test_step_times_are_learned_while_serving() -> None:
    cost = StepCost()
    server = SmallServer(SloPolicy(OBJECTIVES, cost), OBJECTIVES, cost=cost)
    serve(server, arrivals(4.0, 30.0, seed=3), until=30.0)
    assert cost.error < 0.02
    assert server.goodput.outcomes["met"] > 0.9 * server.goodput.outcomes.total()


def test_a_request_with_a_tighter_objective_is_kept_at_it() -> None:
    server = served("slo", Objectives(tpot=0.2))
    strict = server.submit(100, 200, objectives=Objectives(tpot=0.03))
    for _ in range(5):
        server.step()
    for _ in range(30):
        server.submit(2000, 50)
    server.finish()
    assert strict.first_token is not None
    assert strict.last_token is not None
    assert (strict.last_token - strict.first_token) / 199 <= 0.03
