"""What other threads want done on the step thread."""

from __future__ import annotations

from collections.abc import Callable
from queue import Empty, SimpleQueue

Job = Callable[[], None]


class Inbox:
    """Jobs in the order they were put, from any thread; done by whoever opens it."""

    def __init__(self) -> None:
        self._jobs: SimpleQueue[Job] = SimpleQueue()

    def put(self, job: Job) -> None:
        self._jobs.put(job)

    def open(self) -> None:
        """Do every job that is there."""
        while True:
            try:
                self._jobs.get_nowait()()
            except Empty:
                return

    def wait(self, timeout: float | None) -> None:
        """Do the next job, if one comes within `timeout` seconds; None waits for ever."""
        try:
            job = self._jobs.get(timeout=timeout)
        except Empty:
            return
        job()
