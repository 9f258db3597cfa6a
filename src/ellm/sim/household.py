"""Several models on one device, in virtual time.

    requests ─▶ gate ─▶ fleet: steps, one at a time, of the model whose turn it is
                          │
                 helper: weights come from host memory beside the steps

The fleet, its engines and their memory are the real ones (engine/fleet.py): idle models sleep when
others need their room or nobody has asked for long, and wake when somebody does.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from ellm.core.config import MemoryConfig, SchedulerConfig
from ellm.core.errors import RequestError
from ellm.core.output import SequenceOutput
from ellm.core.request import Request
from ellm.engine.fleet import EngineFleet
from ellm.engine.loop import STALL
from ellm.obs.models import ModelState
from ellm.sim.arriving import reaching, request_of
from ellm.sim.clock import VirtualClock
from ellm.sim.devices.device import Overhead
from ellm.sim.helper import TimedHelper
from ellm.sim.replay import SimHouse, SimModel, SimTenant
from ellm.sim.served import Served
from ellm.sim.timeline import Timeline
from ellm.sim.workload.item import Item

# The shortest wait, in seconds: what is due in less than the clock can tell would never be.
TICK = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A model that lives here: `floor` and `ceiling` are limits of all it holds, in bytes."""

    name: str
    model: SimModel
    limits: SchedulerConfig
    floor: int = 0
    ceiling: int | None = None


@dataclass(frozen=True, slots=True)
class Holdings:
    """Bytes that each member holds at one moment, in their order, and how many of them sleep."""

    time: float
    held: Sequence[int]
    asleep: int


class Gate(Protocol):
    """Decides when requests that have come go to their models."""

    def come(self, name: str, request: Request) -> None:
        """A request for the model `name`, which could serve it, has reached the server."""
        ...

    def turn(self) -> None:
        """The next step is about to begin."""
        ...


class OpenGate:
    """Lets everyone in at once: it is the fleet that decides whose turn it is."""

    def __init__(self, fleet: EngineFleet) -> None:
        self._fleet = fleet

    def come(self, name: str, request: Request) -> None:
        self._fleet.enqueue(name, request)

    def turn(self) -> None:
        pass


class Household:
    """`members` by the number that items give, on one device with `memory`, which has a budget.

    Weights are read at `load_bandwidth` bytes a second.  A member without requests for
    `idle_release` seconds sleeps, with None only when others need its room.  All are loaded in
    the beginning, in turn, and time counts from when they are; `loads` are those since.  Raises
    BudgetError where a model could not run.
    """

    def __init__(
        self,
        members: Sequence[Member],
        memory: MemoryConfig,
        overhead: Overhead,
        load_bandwidth: float,
        idle_release: float | None = None,
        seed: int = 0,
    ) -> None:
        assert memory.budget is not None, "a household has a budget"
        self.members = members
        self.overhead = overhead
        self.served: list[Served] = []
        self.loads = 0
        self.timeline: Timeline[Holdings] = Timeline()
        self._seed = seed
        self._bandwidth = load_bandwidth
        self._clock = VirtualClock()
        self._helper = TimedHelper(self._clock)
        self._house = SimHouse.of(memory, self._clock, load_bandwidth, memory.budget)
        self.fleet = EngineFleet(
            self._house.pool,
            self._house.balloon,
            self._clock,
            self._helper,
            idle_release,
            self._house.tiers,
        )
        self.gate: Gate = OpenGate(self.fleet)
        self._unfinished = 0
        self._start = 0.0
        for member in members:
            self._load(member)
        self.loads = 0
        self._start = self._clock.now()

    def _load(self, member: Member) -> None:
        chunk = self._house.pool.chunk_bytes

        def read(address: int) -> None:
            self.loads += 1
            self._helper.spend(member.model.weight_bytes / self._bandwidth)

        def settle() -> SimTenant:
            return SimTenant(self._house, member.name, member.model, member.limits, read)

        ceiling = None if member.ceiling is None else member.ceiling // chunk
        loading = self.fleet.load(member.name, settle, member.floor // chunk, ceiling)
        while not loading.done():
            self._wait(math.inf)
            self._step()
        loading.result()

    @property
    def now(self) -> float:
        """Seconds since all were loaded."""
        return self._clock.now() - self._start

    def run(self, items: Iterable[Item]) -> None:
        """Serve all of them to their last token.  `items` are in the order of their arrival."""
        coming = ((self._start + at, item) for at, item in reaching(items, self.overhead))
        nearest = next(coming, None)
        while nearest is not None or self._unfinished:
            while nearest is not None and nearest[0] <= self._clock.now():
                self._arrive(nearest[1])
                nearest = next(coming, None)
            self._step()
            self.timeline.maybe(self.now, self._look)
            if nearest is not None and not self._busy:
                self._wait(nearest[0])
            elif self._unfinished and not self._busy:
                self._wait(math.inf)

    def _arrive(self, item: Item) -> None:
        number = len(self.served)
        model = (number if item.model is None else item.model) % len(self.members)
        served = Served(item.arrival, item.prompt_tokens, model)
        self.served.append(served)
        name = self.members[model].name
        request = request_of(item, number, self._seed, self._clock.now())
        try:
            self.fleet.check_request(name, request)
        except RequestError as error:
            served.refused = str(error)
            return
        self._unfinished += 1
        self.gate.come(name, request)

    @property
    def _busy(self) -> bool:
        """Whether the next step can begin at once."""
        return self.fleet.has_work and not self.fleet.stalled

    def _step(self) -> None:
        """One step, if there is anything to do."""
        self._helper.settle()
        self.gate.turn()
        for news in self.fleet.step():
            self._note(news)
        for refusal in self.fleet.take_refusals():
            for request_id in refusal.request_ids:
                self.served[int(request_id)].refused = str(refusal.error)
                self._unfinished -= 1

    def _wait(self, nearest: float) -> None:
        """Let time pass as engine/loop.py does: until somebody comes, which is at `nearest`, a job
        ends, or it is time to look again."""
        now = self._clock.now()
        patience = STALL if self.fleet.stalled else self.fleet.patience()
        again = math.inf if patience is None else now + patience
        end = min(nearest, self._helper.next_end, again)
        assert end < math.inf, f"nothing will ever happen after {self.now} s"
        self._clock.advance(max(TICK, end - now))

    def _note(self, news: SequenceOutput) -> None:
        served, now = self.served[int(news.request_id)], self.now
        if news.token is not None:
            served.token(now + self.overhead.output_token)
        if news.finish_reason is not None:
            served.cached = news.cached_tokens
            served.ended = now + self.overhead.output_token + self.overhead.completion
            self._unfinished -= 1

    def _look(self, now: float) -> Holdings:
        pool, states = self.fleet.pool, self.fleet.states.values()
        held = [pool.chunk_bytes * pool.ledger.group_held(member.name) for member in self.members]
        return Holdings(now, held, sum(state is ModelState.ASLEEP for state in states))

    def check(self) -> None:
        """Assert that the books balance."""
        self.fleet.check()
        self.fleet.pool.check()
