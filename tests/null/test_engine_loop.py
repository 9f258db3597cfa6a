"""The step thread: reached from any thread, honest about its health."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from ellm.core.config import MemoryConfig, SchedulerConfig
from ellm.core.errors import ContextOverflow, EngineDead, QueueFull
from ellm.core.output import SequenceOutput
from ellm.core.plan import StepPlan
from ellm.core.request import Request
from ellm.core.result import StepResult
from ellm.core.sampling import SamplingParams
from ellm.core.sequence import FinishReason
from ellm.core.units import KIB
from ellm.engine.engine import Engine
from ellm.engine.loop import EngineLoop
from ellm.sim.replay import SimModel, simulated_engine

WAIT = 10.0


def engine_of(queued: int | None = None) -> Engine:
    memory = MemoryConfig(budget=2048 * KIB, chunk_bytes=4 * KIB)
    limits = SchedulerConfig(max_num_seqs=4, max_model_len=256, max_num_queued_reqs=queued)
    return simulated_engine(SimModel(), memory, limits)


def request(name: str, count: int = 5) -> Request:
    params = SamplingParams(max_tokens=count, seed=0)
    return Request(request_id=name, prompt=(1, 2, 3), params=params)


class Listener:
    """Collects news, and knows when everyone it waits for has finished."""

    def __init__(self, expected: int) -> None:
        self.news: list[SequenceOutput] = []
        self.done = threading.Event()
        self.error: BaseException | None = None
        self._left = expected

    def deliver(self, news: list[SequenceOutput]) -> None:
        self.news += news
        self._left -= sum(1 for n in news if n.finish_reason is not None)
        if self._left <= 0:
            self.done.set()

    def died(self, error: BaseException) -> None:
        self.error = error
        self.done.set()


def test_requests_from_many_threads_all_finish() -> None:
    listener = Listener(expected=40)
    loop = EngineLoop(engine_of(), listener.deliver, listener.died)
    loop.start()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: loop.submit(request(f"r{i}")), range(40)))
    assert listener.done.wait(WAIT)
    loop.ping().result(WAIT)
    assert {n.finish_reason for n in listener.news if n.finish_reason} == {FinishReason.LENGTH}
    assert len(listener.news) == 200
    loop.stop()


def test_refusals_reach_the_caller() -> None:
    listener = Listener(expected=1)
    loop = EngineLoop(engine_of(queued=0), listener.deliver, listener.died)
    with pytest.raises(ContextOverflow):
        loop.submit(request("long", 1000))
    for i in range(4):
        loop.submit(request(f"r{i}"))
    with pytest.raises(QueueFull):
        loop.submit(request("r4"))


def test_abort_is_reported() -> None:
    listener = Listener(expected=1)
    loop = EngineLoop(engine_of(), listener.deliver, listener.died)
    loop.submit(request("r", 200))
    loop.abort("r")
    loop.start()
    assert listener.done.wait(WAIT)
    assert listener.news[-1].finish_reason is FinishReason.ABORT
    loop.stop()


def test_death_is_told_and_pings_fail() -> None:
    class Broken:
        def activation_bytes(self, shape: object) -> int:
            return 0

        def execute(self, plan: StepPlan) -> StepResult:
            raise RuntimeError("boom")

    engine = engine_of()
    engine._executor = Broken()
    listener = Listener(expected=1)
    loop = EngineLoop(engine, listener.deliver, listener.died)
    loop.start()
    loop.ping().result(WAIT)
    loop.submit(request("r"))
    assert listener.done.wait(WAIT)
    assert isinstance(listener.error, RuntimeError)
    with pytest.raises(EngineDead, match="boom"):
        loop.submit(request("again"))
    with pytest.raises(EngineDead, match="boom"):
        loop.ping().result(WAIT)
    loop.stop()


def test_a_cancelled_ping_harms_nobody() -> None:
    listener = Listener(expected=1)
    loop = EngineLoop(engine_of(), listener.deliver, listener.died)
    loop.ping().cancel()
    loop.start()
    loop.ping().result(WAIT)
    assert listener.error is None
    loop.stop()


def test_a_stopped_loop_takes_nothing() -> None:
    listener = Listener(expected=1)
    loop = EngineLoop(engine_of(), listener.deliver, listener.died)
    loop.start()
    loop.stop()
    with pytest.raises(EngineDead, match="stopped"):
        loop.submit(request("r"))
    with pytest.raises(EngineDead):
        loop.ping().result(WAIT)
