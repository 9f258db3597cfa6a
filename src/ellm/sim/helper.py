"""A helper whose jobs end when one says so."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

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
