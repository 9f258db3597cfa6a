"""Work that a device was given and does later, in order: a stream without a device.

launch(work)   fence()   launch(work) ...         at once, whatever they do
    │             │
    └─ done when the stream gets there ─▶ the fence passes when it does
"""

from __future__ import annotations

import random
import threading
import time
from collections import deque
from collections.abc import Callable
from enum import Enum

from ellm.core.errors import DriverError

Work = Callable[[], object]


class Pace(Enum):
    """When a stream does its work: at once, when told, or when something waits for it."""

    NOW = "now"
    BY_HAND = "by hand"
    LAZY = "lazy"


class Mark:
    """A fence of a `FakeStream`; `error` is what the work before it failed of."""

    def __init__(self, stream: FakeStream) -> None:
        self._stream = stream
        self._there = threading.Event()
        self.error: DriverError | None = None
        self.asked = 0

    def reach(self, error: DriverError | None) -> None:
        self.error = error
        self._there.set()

    def passed(self) -> bool:
        self.asked += 1
        if self._there.is_set() and self.error is not None:
            raise self.error
        return self._there.is_set()

    def wait(self) -> None:
        self._stream.wanted(self)
        assert self._there.wait(60), "nobody lets the stream get there"
        if self.error is not None:
            raise self.error


class FakeStream:
    """A queue of work, done in order at some `pace`."""

    def __init__(self, pace: Pace = Pace.BY_HAND) -> None:
        self.pace = pace
        self._queue: deque[Work | Mark] = deque()
        self._lock = threading.RLock()
        self._error: DriverError | None = None

    def __len__(self) -> int:
        """What was launched or marked, and is not done."""
        return len(self._queue)

    def launch(self, work: Work) -> None:
        self._queue.append(work)
        if self.pace is Pace.NOW:
            self.drain()

    def fence(self) -> Mark:
        mark = Mark(self)
        self._queue.append(mark)
        if self.pace is Pace.NOW:
            self.drain()
        return mark

    def fail(self) -> None:
        """The next fence tells of work that failed."""
        self._error = DriverError("the work before the fence failed")

    def advance(self, count: int = 1) -> None:
        """Do so many things of what is queued."""
        with self._lock:
            for _ in range(min(count, len(self._queue))):
                each = self._queue[0]
                if isinstance(each, Mark):
                    each.reach(self._error)
                    self._error = None
                else:
                    each()
                self._queue.popleft()

    def drain(self) -> None:
        """Do all of it."""
        with self._lock:
            self.advance(len(self._queue))

    def wanted(self, mark: Mark) -> None:
        """Somebody waits for `mark`."""
        if self.pace is not Pace.LAZY:
            return
        with self._lock:
            while mark in self._queue:
                self.advance()


class Worker:
    """A thread that does a stream's work, slowly and unevenly, while the caller goes on."""

    def __init__(self, stream: FakeStream, seed: int, pause: float = 0.0005) -> None:
        self._stream = stream
        self._dice = random.Random(seed)
        self._pause = pause
        self._going = True
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Return when all work is done."""
        self._going = False
        self._thread.join()

    def _run(self) -> None:
        while self._going or len(self._stream):
            time.sleep(self._dice.random() * 2 * self._pause)
            self._stream.advance(self._dice.randrange(1, 4))
