"""One model at a time on each device, as systems serve that swap whole models.

requests of others wait here │ until nobody asks the one that is there, or its time is up

Its running requests are finished then, its weights go, and those of whoever has waited longest
come.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from ellm.core.request import Request
from ellm.engine.fleet import EngineFleet
from ellm.engine.residency import SLICE


class OneAtATime:
    """A gate (ellm.sim.household) in front of a fleet; `now` is the time of its clock."""

    def __init__(self, fleet: EngineFleet, now: Callable[[], float]) -> None:
        self._fleet = fleet
        self._now = now
        self._queues: dict[str, deque[Request]] = {name: deque() for name in fleet.states}
        self._there: str | None = None
        self._since = 0.0
        for name in fleet.states:
            fleet.sleep(name)

    def come(self, name: str, request: Request) -> None:
        if name == self._there and not self._is_over():
            self._fleet.enqueue(name, request)
        else:
            self._queues[name].append(request)

    def turn(self) -> None:
        if self._there is not None and not self._fleet.model(self._there).engine.is_idle:
            return
        waiting = [name for name, queue in self._queues.items() if queue]
        if not waiting:
            return
        if self._there is not None:
            self._fleet.sleep(self._there)
        self._there = min(waiting, key=lambda name: self._queues[name][0].arrival)
        self._since = self._now()
        queue = self._queues[self._there]
        while queue:
            self._fleet.enqueue(self._there, queue.popleft())

    def _is_over(self) -> bool:
        """Whether the one that is there must make way for others that wait."""
        others = any(queue for name, queue in self._queues.items() if name != self._there)
        return others and self._now() - self._since >= SLICE
