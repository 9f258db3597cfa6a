"""When bytes freed on one stream may be used by work on another.

Work on one stream runs in order, so the stream that freed a block may reuse it at once.  For the
others time is cut into epochs: a fence recorded on a stream ends its epoch, and when the fence has
passed, so has all work queued in that epoch and before.

    epoch     0            │ 1         │ 2 (now)
    stream    frees frees  fence       fence  frees
                           └ passed    └ not yet         epoch 0 is passed

A free costs nothing here, and a fence is recorded only when another stream wants the memory.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from ellm.core.errors import DriverError


class Fence(Protocol):
    """A mark in the queue of a stream, behind everything that was queued before it.

    Any thread may ask, one at a time.  Both raise DriverError when work on the stream has failed.
    """

    def passed(self) -> bool:
        """Whether the stream has reached the mark; does not block."""
        ...

    def wait(self) -> None:
        """Block until it has."""
        ...


class RefusedFence:
    """A mark that could not be made: whoever waits for it hears why."""

    def __init__(self, error: DriverError) -> None:
        self._error = error

    def passed(self) -> bool:
        raise self._error

    def wait(self) -> None:
        raise self._error


def fence_now(record: Callable[[], Fence] | None) -> Fence | None:
    """A mark behind everything queued so far; None where memory is used synchronously.

    Never raises, so that whoever gives something up or asks for a copy is not stopped halfway.
    """
    try:
        return None if record is None else record()
    except DriverError as error:
        return RefusedFence(error)


@dataclass(slots=True)
class _Clock:
    epoch: int = 0
    passed: int = -1
    fences: list[tuple[int, Fence]] = field(default_factory=list)


class Fences:
    """The epochs of every stream.

    `record` None means that memory is used synchronously: there are no streams then, which the
    stream None stands for, and everything has passed.
    """

    def __init__(self, record: Callable[[int], Fence] | None) -> None:
        self._record = record
        self._clocks: dict[int, _Clock] = {}

    def stream(self, stream: int) -> int | None:
        """The stream that memory used on `stream` belongs to."""
        return None if self._record is None else stream

    def now(self, stream: int | None) -> int:
        """The epoch in which something freed on `stream` now is freed."""
        return -1 if stream is None else self._clock(stream).epoch

    def passed(self, stream: int | None, epoch: int) -> bool:
        """Whether nothing queued on `stream` in `epoch` or before can still run.

        Looks once, and does not block; the first to ask ends the epoch.
        """
        if stream is None:
            return True
        assert self._record is not None, stream
        clock = self._clock(stream)
        if epoch == clock.epoch:
            clock.fences.append((epoch, self._record(stream)))
            clock.epoch += 1
        while clock.fences and clock.passed < epoch and clock.fences[0][1].passed():
            clock.passed, _ = clock.fences.pop(0)
        return epoch <= clock.passed

    def wait(self, stream: int | None, epoch: int) -> None:
        """Block until `passed`."""
        while stream is not None and not self.passed(stream, epoch):
            self._clock(stream).fences[0][1].wait()

    def close(self) -> None:
        """Wait for every fence that is out."""
        for stream, clock in self._clocks.items():
            self.wait(stream, clock.epoch - 1)

    def _clock(self, stream: int) -> _Clock:
        return self._clocks.setdefault(stream, _Clock())
