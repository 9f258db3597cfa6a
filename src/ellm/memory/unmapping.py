"""Slots whose chunks were given back, and which are unmapped later, at a safe point.

    give back   the chunk is free at once, and may be mapped a second time elsewhere
    later       flush() takes the old mapping away: between steps on the host, on CUDA once the
                work that may still read it has passed (eLLM, arXiv 2506.15155, section on hiding
                the driver: asynchronous unmapping)

So giving back never fails, whatever the machine refuses.

A slot that waits here is out of use: whoever maps it again settles it first.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from ellm.core.errors import DriverError
from ellm.memory.driver import Driver, Span
from ellm.memory.fences import Fence, fence_now
from ellm.memory.runs import adjacent_runs


@dataclass(slots=True)
class _Waiting:
    """Slots of one span that wait to be unmapped, each with the fence it waits for."""

    span: Span
    slots: dict[int, Fence | None]


class DeferredUnmaps:
    """Mappings of `driver` that have no use left.

    `fence` marks the moment after all work given to the device so far; None where work is done
    when the call returns, as on the host.  `at_once` puts nothing off: only what the machine
    refuses to unmap waits, for the next `flush`.
    """

    def __init__(
        self, driver: Driver, fence: Callable[[], Fence] | None = None, at_once: bool = False
    ) -> None:
        self._driver = driver
        self._fence = fence
        self._at_once = at_once
        self._waiting: dict[int, _Waiting] = {}

    def __len__(self) -> int:
        """Slots that wait."""
        return sum(len(waiting.slots) for waiting in self._waiting.values())

    def add(self, span: Span, slot: int, count: int) -> None:
        """`count` mapped slots from `slot` have no use left."""
        waiting = self._waiting.setdefault(span.address, _Waiting(span, {}))
        fence = fence_now(self._fence)
        waiting.slots.update(dict.fromkeys(range(slot, slot + count), fence))
        if self._at_once:
            with suppress(DriverError):
                self.settle(span, slot, count)

    def settle(self, span: Span, slot: int, count: int) -> None:
        """Unmap whatever waits among `count` slots from `slot`, now."""
        waiting = self._waiting.get(span.address)
        if waiting is not None:
            self._unmap(waiting, [at for at in range(slot, slot + count) if at in waiting.slots])

    def flush(self, wait: bool = True) -> int:
        """Unmap all that waits; how many slots.  Without `wait`, only what is safe already."""
        flushed = 0
        for waiting in list(self._waiting.values()):
            slots = sorted(waiting.slots)
            if not wait:
                # Slots given back together have one fence, and asking it is a call of the driver.
                fences = {id(fence): fence for fence in waiting.slots.values()}
                passed = {key for key, fence in fences.items() if fence is None or fence.passed()}
                slots = [at for at in slots if id(waiting.slots[at]) in passed]
            self._unmap(waiting, slots)
            flushed += len(slots)
        return flushed

    def _unmap(self, waiting: _Waiting, slots: list[int]) -> None:
        for low, high in adjacent_runs(slots):
            for fence in {id(f): f for at in range(low, high) if (f := waiting.slots[at])}.values():
                fence.wait()
            self._driver.unmap(waiting.span, low, high - low)
            for at in range(low, high):
                del waiting.slots[at]
        if not waiting.slots:
            self._waiting.pop(waiting.span.address, None)
