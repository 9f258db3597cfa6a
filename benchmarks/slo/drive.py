"""Requests through an engine in virtual time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from arms import Arm
from ellm.core.objectives import Objectives
from ellm.core.request import Request
from ellm.core.sampling import SamplingParams
from ellm.engine.engine import Engine
from ellm.sim.clock import VirtualClock
from ellm.sim.replay import simulated_engine
from settings import Setting
from workload import Item


@dataclass(slots=True)
class Served:
    """When one request came, and when its tokens did."""

    arrival: float
    output: int
    first: float = 0.0
    last: float = 0.0

    @property
    def ttft(self) -> float:
        return self.first - self.arrival

    @property
    def tpot(self) -> float | None:
        return (self.last - self.first) / (self.output - 1) if self.output > 1 else None


def simulate(
    setting: Setting,
    arm: Arm,
    items: Sequence[Item],
    prompts: Sequence[tuple[int, ...]],
    rate: float,
    wished: Objectives,
    hook=None,
) -> list[Served]:
    clock = VirtualClock()
    engine = simulated_engine(
        setting.model, arm.memory(setting), arm.scheduler(setting, wished), clock
    )
    if hook:
        hook(engine)
    served = [Served(item.arrival / rate, item.output) for item in items]
    coming = 0
    while coming < len(items) or engine.has_work:
        while coming < len(items) and served[coming].arrival <= clock.now():
            submit(engine, coming, prompts[coming], served[coming])
            coming += 1
        before = clock.now()
        for news in engine.step():
            if news.token is not None:
                one = served[int(news.request_id)]
                one.first = one.first or clock.now()
                one.last = clock.now()
        if clock.now() == before and coming < len(items):
            clock.advance(max(0.0, served[coming].arrival - before))
        elif clock.now() == before and engine.has_work:
            raise AssertionError("stalled")
    simulate.engine = engine
    return served


def submit(engine: Engine, number: int, prompt: tuple[int, ...], one: Served) -> None:
    params = SamplingParams(max_tokens=one.output, temperature=0, ignore_eos=True)
    engine.submit(
        Request(request_id=str(number), prompt=prompt, params=params, arrival=one.arrival)
    )
