"""A fleet of simulated models, what it was asked, and what it has answered."""

from __future__ import annotations

import zlib
from array import array
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial

from ahead import Ahead

from ellm.core.clock import Clock
from ellm.core.config import MemoryConfig, SchedulerConfig, SchedulingPolicy
from ellm.core.errors import (
    EllmError,
)
from ellm.core.executor import Executor
from ellm.core.objectives import Objectives
from ellm.core.request import Request
from ellm.core.sampling import SamplingParams
from ellm.core.units import KIB
from ellm.engine.assembly import EngineMemory
from ellm.engine.engine import Engine
from ellm.engine.fleet import EngineFleet
from ellm.scheduling.coefficients import Coefficients
from ellm.scheduling.cost import StepCost
from ellm.sim.clock import VirtualClock
from ellm.sim.executor import Telltale
from ellm.sim.helper import SimHelper
from ellm.sim.replay import SimHouse, SimModel, SimTenant

CHUNK = 4 * KIB
CONTEXT = 64


def ahead_of_time(
    config: SchedulerConfig,
    memory: EngineMemory,
    executor: Executor,
    clock: Clock,
    cost: StepCost | None = None,
) -> Engine:
    """An engine whose executor runs ahead."""
    return Engine(config, memory, Ahead(executor), clock, cost=cost)


@dataclass
class World:
    """A fleet, what it was asked, and what it has answered."""

    budget: int
    idle_release: float | None = None
    machine: int = 1000
    below: int = 0
    step_seconds: float = 0.01
    ttft_slo: float | None = None
    tpot_slo: float | None = None
    ahead: bool = False
    clock: VirtualClock = field(default_factory=VirtualClock)
    helper: SimHelper = field(default_factory=SimHelper)
    asked: dict[str, tuple[int, Request]] = field(default_factory=dict)
    said: dict[str, list[int]] = field(default_factory=dict)
    ended: dict[str, str | EllmError] = field(default_factory=dict)
    vocabularies: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        memory = MemoryConfig(
            budget=self.budget * CHUNK, chunk_bytes=CHUNK, offload_bytes=self.below * CHUNK
        )
        self.house = SimHouse.of(memory, self.clock, 1e6, machine=self.machine * CHUNK)
        self.pool = self.house.pool
        self.fleet = EngineFleet(
            self.pool,
            self.house.balloon,
            self.clock,
            self.helper,
            self.idle_release,
            self.house.tiers,
        )

    def load(self, name: str, chunks: int, **limits: int) -> None:
        """A model with weights of `chunks` chunks, loaded at once."""
        loading = self.begin(name, chunks, **limits)
        while len(self.helper):
            self.helper.finish()
        loading.result(0)

    def begin(self, name: str, chunks: int, context: int = CONTEXT, **limits: int) -> Future[None]:
        model = SimModel(
            weight_bytes=chunks * CHUNK,
            answers=partial(Telltale, 1000 + chunks),
            cost=Coefficients.even(step=self.step_seconds),
            engine=ahead_of_time if self.ahead else Engine,
        )
        self.vocabularies[name] = 1000 + chunks
        pressed = self.ttft_slo is not None or self.tpot_slo is not None
        scheduler = SchedulerConfig(
            max_num_seqs=4,
            max_model_len=context,
            policy=SchedulingPolicy.SLO if pressed else SchedulingPolicy.FCFS,
            ttft_slo=self.ttft_slo,
            tpot_slo=self.tpot_slo,
        )

        def settle() -> SimTenant:
            return SimTenant(self.house, name, model, scheduler)

        return self.fleet.load(name, settle, **limits)

    def ask(
        self, name: str, prompt: int = 5, tokens: int = 8, wished: Objectives | None = None
    ) -> str:
        """Submit a request; its id."""
        number = len(self.asked)
        request = Request(
            request_id=f"r{number}",
            prompt=tuple(range(number, number + prompt)),
            params=SamplingParams(max_tokens=tokens, temperature=0, ignore_eos=True),
            arrival=self.clock.now(),
            objectives=wished,
        )
        self.fleet.check_request(name, request)
        self.asked[request.request_id] = (self.vocabularies[name], request)
        self.said[request.request_id] = []
        self.fleet.enqueue(name, request)
        return request.request_id

    def step(self) -> None:
        for news in self.fleet.step():
            if news.token is not None:
                self.said[news.request_id].append(news.token)
            if news.finish_reason is not None:
                self.end(news.request_id, news.finish_reason.value)
        for refusal in self.fleet.take_refusals():
            for request_id in refusal.request_ids:
                self.end(request_id, refusal.error)

    def end(self, request_id: str, how: str | EllmError) -> None:
        assert request_id not in self.ended, request_id
        self.ended[request_id] = how

    def settle(self, steps: int = 3000) -> None:
        """Let everything go on until nothing is left to do."""
        for _ in range(steps):
            self.go_on()
            if len(self.ended) == len(self.asked) and not len(self.helper):
                return
        raise AssertionError(f"unanswered: {self.asked.keys() - self.ended.keys()}")

    def go_on(self) -> None:
        """One turn of the loop."""
        if len(self.helper):
            self.helper.finish()
        self.step()
        if self.fleet.stalled or not self.fleet.has_work:
            self.clock.advance(0.05)

    def check(self) -> None:
        self.fleet.check()
        self.pool.check()
        if self.house.tiers is not None:
            self.house.tiers.check()

    def check_words(self) -> None:
        """What was said is what each model says of each prompt when it is alone."""
        for request_id, (vocabulary, request) in self.asked.items():
            text = list(request.prompt)
            for token in self.said[request_id]:
                assert token == zlib.crc32(array("q", [*text, 0]).tobytes()) % vocabulary
                text.append(token)
            if self.ended.get(request_id) == "length":
                assert len(self.said[request_id]) == request.params.max_tokens
