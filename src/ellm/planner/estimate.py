"""What a plan will roughly do, from one equation instead of a simulation.

In a steady state each lane has as many sequences as arrive while one is answered (Little's law),
and a step takes as long as those sequences and the prompts that arrive meanwhile make it:

    C = time(d decoding, p prompt tokens)    d = rate · answer · C    p = rate · prompt · C

The smallest solution is found from below.  Where there is none, or more sequences than memory and
limits allow, the plan cannot keep up, and the queue grows as long as requests come.  An estimate
only says which plans are simulated first; figures that are reported are simulated.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ellm.core.load import StepLoad
from ellm.core.objectives import Objectives
from ellm.planner.bounds import Seats, distinct
from ellm.planner.demand import Demand
from ellm.planner.figures import Figures
from ellm.sim.deployment import Deployment

_ROUNDS = 60
_SETTLED = 1e-3
# How steeply the share of requests falls that meet an objective when the mean is above it.
_STEEP = 4


@dataclass(frozen=True, slots=True)
class Traffic:
    """Means over the requests of a trace, `rate` a second (infinite where all come at once).

    Of a prompt `fresh` tokens are computed, on average.
    """

    requests: int
    rate: float
    prompt: float
    fresh: float
    output: float

    @classmethod
    def of(cls, demand: Demand) -> Traffic:
        count = max(1, len(demand.asks))
        span = demand.asks[-1].arrival - demand.asks[0].arrival if demand.asks else 0.0
        prompts = sum(ask.prompt for ask in demand.asks)
        return cls(
            requests=len(demand.asks),
            rate=count / span if span else math.inf,
            prompt=prompts / count,
            fresh=(prompts - sum(ask.known for ask in demand.asks)) / count,
            output=sum(ask.output for ask in demand.asks) / count,
        )

    @property
    def length(self) -> float:
        """Tokens of KV in the middle of an answer."""
        return self.prompt + self.output / 2


@dataclass(frozen=True, slots=True)
class _Cycle:
    """A step through all stages: its seconds, how long stages compute for it, and how many
    sequences decode in it."""

    seconds: float
    busy: float
    decoding: float


class Estimator:
    """Of one division of a model, for any number of replicas."""

    def __init__(self, deployment: Deployment, seats: Seats, traffic: Traffic) -> None:
        self._deployment = deployment
        self._stages = distinct(deployment.stages)
        self._ranks = deployment.plan.ranks(deployment.transformer)
        self._traffic = traffic
        self._most = min(float(seats.sequences), seats.kv_tokens / traffic.length)

    def figures(self, replicas: int, slo: Objectives) -> Figures:
        """Roughly; percentiles are means."""
        traffic, plan = self._traffic, self._deployment.plan
        lanes = replicas * plan.stages
        cycle, served = self._settle(traffic.rate / lanes)
        total = lanes * served
        ttft = self._first(cycle)
        e2el = ttft + traffic.output * cycle.seconds
        span = traffic.requests / traffic.rate
        duration = max(span, traffic.requests / total) + e2el
        # A queue that grows all the time has half of its longest wait on average.
        waited = max(0.0, traffic.requests / total - span)
        met = _share(ttft, waited, slo.ttft) * _steep(cycle.seconds, slo.tpot)
        device, devices = self._deployment.device, lanes * plan.width
        working = min(1.0, cycle.decoding + total * ttft / lanes)
        busy = lanes * plan.width * working * cycle.busy / cycle.seconds
        watts = devices * device.idle_watts + busy * (device.busy_watts - device.idle_watts)
        output = traffic.requests * traffic.output
        return Figures(
            devices=devices,
            output_rate=output / duration,
            good_rate=met * traffic.requests / (duration - e2el + ttft) if slo.stated else None,
            met=met if slo.stated else None,
            ttft=ttft + waited / 2,
            tpot=cycle.seconds,
            e2el=e2el + waited / 2,
            joules=watts * duration / output,
        )

    def _settle(self, rate: float) -> tuple[_Cycle, float]:
        """The steady step of a lane to which so many requests come a second, and how many of them
        it serves."""
        answer = self._traffic.output
        seconds = self._cycle(0.0, 0.0).seconds
        for _ in range(_ROUNDS):
            decoding = rate * answer * seconds
            if not decoding < self._most:
                break
            cycle = self._cycle(decoding, rate * seconds)
            if cycle.seconds <= seconds * (1 + _SETTLED):
                return cycle, rate
            seconds = cycle.seconds
        # As many as there can be, and prompts as they end.
        cycle = self._cycle(self._most, self._most / answer)
        return cycle, min(rate, self._most / answer / cycle.seconds)

    def _cycle(self, decoding: float, prompts: float) -> _Cycle:
        """With so many sequences that decode, and prompts that arrive in the meantime."""
        traffic, ranks = self._traffic, self._ranks
        here, fresh = max(decoding, 1.0) / ranks, prompts * traffic.fresh / ranks
        cached = here * traffic.length
        pairs = cached + fresh * (traffic.prompt - traffic.fresh / 2)
        load = (here + fresh, pairs, cached + prompts * traffic.prompt / ranks, here + prompts)
        times = self._times([StepLoad(*map(math.ceil, load))] * ranks)
        through = sum(count * seconds for seconds, count in times)
        slowest = self._deployment.plan.stages * max(seconds for seconds, _ in times)
        return _Cycle(max(through, slowest), through, max(decoding, 0.0))

    def _first(self, cycle: _Cycle) -> float:
        """Seconds to the first token: half a step of others, then one with the prompt in it."""
        traffic, over = self._traffic, self._deployment.device.overhead
        fresh, prompt = math.ceil(traffic.fresh), math.ceil(traffic.prompt)
        pairs = math.ceil(fresh * (prompt - fresh / 2))
        loads = [StepLoad(fresh, pairs, prompt, 1)] + [StepLoad()] * (self._ranks - 1)
        own = sum(count * seconds for seconds, count in self._times(loads))
        waits = min(1.0, cycle.decoding) * cycle.seconds
        return over.request + over.prompt_token * prompt + waits / 2 + max(own, waits)

    def _times(self, loads: Sequence[StepLoad]) -> list[tuple[float, int]]:
        return [(stage.seconds(loads), count) for stage, count in self._stages]


def _share(least: float, waited: float, objective: float | None) -> float:
    """Of requests whose times grow evenly from the least, those within an objective."""
    if objective is None:
        return 1.0
    if waited <= 0:
        return _steep(least, objective)
    return min(1.0, max(0.0, (objective - least) / waited))


def _steep(mean: float, objective: float | None) -> float:
    if objective is None or mean <= objective:
        return 1.0
    return float((objective / mean) ** _STEEP)
