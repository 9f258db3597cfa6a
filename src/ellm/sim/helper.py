"""Helpers of a simulated fleet: one whose jobs end when one says so, one whose jobs take time."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from typing import Any

from ellm.core.clock import Clock
from ellm.engine.errand import Then


class SimHelper:
    """Keeps jobs in order; `finish` ends the oldest."""

    def __init__(self) -> None:
        self._jobs: deque[tuple[Callable[[], Any], Then]] = deque()

    def __len__(self) -> int:
        return len(self._jobs)

    def do(self, job: Callable[[], Any], then: Then) -> None:
        self._jobs.append((job, then))

    def finish(self, error: Exception | None = None) -> None:
        """Do the oldest job, or let it fail with `error`."""
        job, then = self._jobs.popleft()
        if error is not None:
            then(None, error)
        else:
            then(job(), None)


class TimedHelper:
    """One job after another beside the steps, each for as long as it says with `spend`.

        steps     ─────────────────────────────────────
        helper      job a ├────────┤ job b ├─────┤
                                   │ then a      │ then b, when `settle` is called next

    A job does what it does when it is asked for; who waits for it is told when its time is over.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._free_at = 0.0
        self._spent = 0.0
        self._ends: deque[tuple[float, Any, Exception | None, Then]] = deque()

    def spend(self, seconds: float) -> None:
        """The job that is being done takes so much longer."""
        self._spent += seconds

    def do(self, job: Callable[[], Any], then: Then) -> None:
        self._spent = 0.0
        answer, failure = None, None
        try:
            answer = job()
        except Exception as error:  # whoever asked for it decides what that means
            failure = error
        self._free_at = max(self._free_at, self._clock.now()) + self._spent
        self._ends.append((self._free_at, answer, failure, then))

    @property
    def next_end(self) -> float:
        """When the oldest job ends; infinite without one."""
        return self._ends[0][0] if self._ends else math.inf

    def settle(self) -> None:
        """Tell those whose jobs have ended."""
        while self.next_end <= self._clock.now():
            _, answer, failure, then = self._ends.popleft()
            then(answer, failure)
