"""The step thread: reached from any thread, honest about its health."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from ellm.core.config import MemoryConfig, SchedulerConfig
from ellm.core.errors import ConfigError, ContextOverflow, EngineDead, ModelNotFound, QueueFull
from ellm.core.executor import Flight
from ellm.core.output import SequenceOutput
from ellm.core.plan import StepPlan
from ellm.core.request import Request
from ellm.core.sampling import SamplingParams
from ellm.core.sequence import FinishReason
from ellm.core.units import KIB
from ellm.engine.errand import HelperThread
from ellm.engine.fleet import EngineFleet, Refusal
from ellm.engine.inbox import Inbox
from ellm.engine.loop import EngineLoop
from ellm.obs.models import ModelState
from ellm.sim.clock import VirtualClock
from ellm.sim.replay import SimHouse, SimModel, SimTenant

WAIT = 10.0
M = "model"


def request(name: str, count: int = 5) -> Request:
    params = SamplingParams(max_tokens=count, seed=0)
    return Request(request_id=name, prompt=(1, 2, 3), params=params)


class Listener:
    """Collects news, and knows when everyone it waits for has finished."""

    def __init__(self, expected: int) -> None:
        self.news: list[SequenceOutput] = []
        self.refusals: list[Refusal] = []
        self.done = threading.Event()
        self.error: BaseException | None = None
        self._left = expected

    def deliver(self, news: list[SequenceOutput]) -> None:
        self.news += news
        self._left -= sum(1 for n in news if n.finish_reason is not None)
        if self._left <= 0:
            self.done.set()

    def refuse(self, refusal: Refusal) -> None:
        self.refusals.append(refusal)
        self._left -= len(refusal.request_ids)
        if self._left <= 0:
            self.done.set()

    def died(self, error: BaseException) -> None:
        self.error = error
        self.done.set()


class World:
    """A loop over one simulated model, "model", which is loaded once the loop runs."""

    def __init__(self, listener: Listener, queued: int | None = None) -> None:
        memory = MemoryConfig(budget=2048 * KIB, chunk_bytes=4 * KIB)
        limits = SchedulerConfig(max_num_seqs=4, max_model_len=256, max_num_queued_reqs=queued)
        inbox, clock = Inbox(), VirtualClock()
        house = SimHouse.of(memory, clock)
        self.helper = HelperThread(inbox)
        self.fleet = EngineFleet(house.pool, house.balloon, clock, self.helper)
        self.loop = EngineLoop(self.fleet, inbox, listener.deliver, listener.refuse, listener.died)
        self.settle = lambda: SimTenant(house, M, SimModel(), limits)
        self.loop.start()
        self.loop.order(lambda: self.fleet.load(M, self.settle)).result(WAIT)


@contextmanager
def running(listener: Listener, queued: int | None = None) -> Iterator[World]:
    world = World(listener, queued)
    try:
        yield world
    finally:
        world.loop.stop()
        world.helper.close()


def test_requests_from_many_threads_all_finish() -> None:
    listener = Listener(expected=40)
    with running(listener) as world:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda i: world.loop.submit(M, request(f"r{i}")), range(40)))
        assert listener.done.wait(WAIT)
        world.loop.ping().result(WAIT)
    assert {n.finish_reason for n in listener.news if n.finish_reason} == {FinishReason.LENGTH}
    assert len(listener.news) == 200


@contextmanager
def held(world: World) -> Iterator[None]:
    """Inside, the loop does nothing."""
    go, there = threading.Event(), threading.Event()

    def wait() -> None:
        there.set()
        go.wait(WAIT)

    world.loop.call(wait)
    assert there.wait(WAIT)
    try:
        yield
    finally:
        go.set()


def test_refusals_reach_the_caller() -> None:
    listener = Listener(expected=4)
    with running(listener, queued=0) as world:
        with held(world):
            with pytest.raises(ContextOverflow):
                world.loop.submit(M, request("long", 1000))
            with pytest.raises(ModelNotFound, match="served: model"):
                world.loop.submit("other", request("r"))
            for i in range(4):
                world.loop.submit(M, request(f"r{i}"))
            with pytest.raises(QueueFull):
                world.loop.submit(M, request("r4"))
        assert listener.done.wait(WAIT)


def test_abort_is_reported() -> None:
    listener = Listener(expected=1)
    with running(listener) as world:
        with held(world):
            world.loop.submit(M, request("r", 200))
            world.loop.abort(M, "r")
        assert listener.done.wait(WAIT)
    assert listener.news[-1].finish_reason is FinishReason.ABORT


def test_death_is_told_and_pings_fail() -> None:
    class Broken:
        def activation_bytes(self, shape: object) -> int:
            return 0

        ahead = False

        def launch(self, plan: StepPlan, ferry: object) -> Flight:
            raise RuntimeError("boom")

    listener = Listener(expected=1)
    with running(listener) as world:
        world.fleet.model(M).engine._executor = Broken()
        world.loop.ping().result(WAIT)
        world.loop.submit(M, request("r"))
        assert listener.done.wait(WAIT)
        assert isinstance(listener.error, RuntimeError)
        with pytest.raises(EngineDead, match="boom"):
            world.loop.submit(M, request("again"))
        with pytest.raises(EngineDead, match="boom"):
            world.loop.ping().result(WAIT)


def test_a_cancelled_ping_harms_nobody() -> None:
    listener = Listener(expected=1)
    with running(listener) as world:
        with held(world):
            assert not world.loop.ping().cancel()
        world.loop.ping().result(WAIT)
    assert listener.error is None


def test_orders_answer_with_what_became_of_them() -> None:
    with running(Listener(expected=1)) as world:
        with pytest.raises(ConfigError, match="already"):
            world.loop.order(lambda: world.fleet.load(M, world.settle)).result(WAIT)
        with pytest.raises(ModelNotFound):
            world.loop.order(lambda: world.fleet.sleep("other")).result(WAIT)
        world.loop.order(lambda: world.fleet.sleep(M)).result(WAIT)
        assert world.fleet.states == {M: ModelState.ASLEEP}
        world.loop.order(lambda: world.fleet.wake(M)).result(WAIT)
        assert world.fleet.states == {M: ModelState.AWAKE}


def test_a_stopped_loop_takes_nothing_and_leaves_nobody_waiting() -> None:
    listener = Listener(expected=1)
    with running(listener) as world:
        endless: Future[None] = Future()
        order = world.loop.order(lambda: endless)
        world.loop.ping().result(WAIT)
        world.loop.stop()
        with pytest.raises(EngineDead, match="stopped"):
            order.result(WAIT)
        with pytest.raises(EngineDead, match="stopped"):
            world.loop.submit(M, request("r"))
        with pytest.raises(EngineDead):
            world.loop.ping().result(WAIT)
