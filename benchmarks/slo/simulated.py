"""One arm in virtual time: the real engine over memory that only keeps accounts."""

from __future__ import annotations

from collections.abc import Sequence

from arms import Arm
from served import Served
from settings import Setting

from ellm.core.objectives import Objectives
from ellm.core.request import Request
from ellm.core.sampling import SamplingParams
from ellm.sim.clock import VirtualClock
from ellm.sim.replay import simulated_engine
from ellm.sim.workload.item import Item


class Simulation:
    """An engine that has just been started."""

    def __init__(self, setting: Setting, arm: Arm, wished: Objectives) -> None:
        self._clock = VirtualClock()
        memory, limits = arm.memory(setting), arm.scheduler(setting, wished)
        self.engine = simulated_engine(setting.model, memory, limits, self._clock)

    def serve(self, items: Sequence[Item], rate: float, seed: int) -> list[Served]:
        """Everything asked at `rate` requests a second, to its end."""
        served = [Served(item.arrival / rate, item.output_tokens) for item in items]
        engine, clock, coming = self.engine, self._clock, 0
        while coming < len(items) or engine.has_work:
            while coming < len(items) and served[coming].arrival <= clock.now():
                engine.submit(_request(coming, items[coming], served[coming], seed))
                coming += 1
            before = clock.now()
            for news in engine.step():
                if news.token is not None:
                    served[int(news.request_id)].token(clock.now())
            if clock.now() == before and coming < len(items):
                clock.advance(max(0.0, served[coming].arrival - before))
            else:
                assert clock.now() > before or not engine.has_work, "nothing moves any more"
        return served

    @property
    def counts(self) -> dict[str, int]:
        stats = self.engine.stats
        return {
            "steps": stats.steps,
            "preemptions": stats.preemptions,
            "swapped": stats.elastic.swapped,
        }


def _request(number: int, item: Item, served: Served, seed: int) -> Request:
    params = SamplingParams(
        max_tokens=item.output_tokens, temperature=0, ignore_eos=True, seed=seed
    )
    return Request(
        request_id=str(number),
        prompt=(number,) * item.prompt_tokens,
        params=params,
        arrival=served.arrival,
    )
