"""One copy between mapped memory and a tier below: what was asked, and what became of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from enum import Enum
from typing import Protocol

from ellm.memory.fences import Fence


class Direction(Enum):
    """Down is away from the device."""

    DOWN = "down"
    UP = "up"


class TransferState(Enum):
    """PENDING until it has ended in one of three ways."""

    PENDING = "pending"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Transfer:
    """`size` bytes one way.  While it is pending, a copy may touch the caller's extents.

    `steps` does the work, a bounded part of it each time it is advanced, yielding how many bytes
    that was.  None is done before `fence` has passed, behind which all work lies that may touch
    the extents; None: no such work is left.  `seconds` is how long it was worked at, waiting in
    line and for the fence left out; `error` says why it failed.
    """

    def __init__(
        self,
        direction: Direction,
        size: int,
        steps: Callable[[], Iterator[int]],
        fence: Fence | None = None,
    ) -> None:
        self.direction = direction
        self.size = size
        self.steps = steps
        self.fence = fence
        self.state = TransferState.PENDING
        self.error: Exception | None = None
        self.seconds = 0.0

    @property
    def pending(self) -> bool:
        return self.state is TransferState.PENDING


class Copier(Protocol):
    """Works off transfers, first come first served in each direction, each behind its fence.

    All calls come from one thread, which alone sees a transfer's state change: in these calls.
    """

    def submit(self, transfer: Transfer) -> None: ...

    def ended(self) -> list[Transfer]:
        """Those that have ended, cancelled ones left out, since this was last asked."""
        ...

    def wait(self, transfer: Transfer) -> None:
        """Return when a submitted transfer has ended; `ended` tells of it as ever."""
        ...

    def cancel(self, transfer: Transfer) -> None:
        """Make a submitted transfer end now, whether its fence has passed or not.

        No copy of it touches anything any more.
        """
        ...

    def close(self) -> None:
        """Cancel everything."""
        ...
