"""Copies that take virtual time: nothing runs until the clock has passed their end."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping
from itertools import count as count_from

from ellm.core.clock import Clock
from ellm.memory.transfer import Direction, Transfer, TransferState


class TimedCopier:
    """One line each way, `bytes_per_second` fast, in each direction if they differ.

    A transfer's work is done when it ends, all at once, in the thread that asks.  `advance` lets
    seconds pass on the clock, for `wait`.  There are no streams in virtual time, so no fences.
    """

    def __init__(
        self,
        clock: Clock,
        advance: Callable[[float], None],
        bytes_per_second: float | Mapping[Direction, float],
    ) -> None:
        self._clock = clock
        self._advance = advance
        rates = bytes_per_second
        self._rates = rates if isinstance(rates, Mapping) else dict.fromkeys(Direction, rates)
        self._free_at: dict[Direction, float] = dict.fromkeys(Direction, 0.0)
        self._order = count_from()
        self._ends: list[tuple[float, int, Transfer]] = []

    def submit(self, transfer: Transfer) -> None:
        assert transfer.fence is None, transfer.fence
        way = transfer.direction
        transfer.seconds = transfer.size / self._rates[way]
        end = max(self._clock.now(), self._free_at[way]) + transfer.seconds
        self._free_at[way] = end
        heapq.heappush(self._ends, (end, next(self._order), transfer))

    def ended(self) -> list[Transfer]:
        transfers = []
        while self._ends and self._ends[0][0] <= self._clock.now():
            transfer = heapq.heappop(self._ends)[2]
            if transfer.pending:
                self._work(transfer)
                transfers.append(transfer)
        return transfers

    def wait(self, transfer: Transfer) -> None:
        end = next((end for end, _, other in self._ends if other is transfer), 0.0)
        while end > self._clock.now():
            self._advance(end - self._clock.now())

    def cancel(self, transfer: Transfer) -> None:
        transfer.state = TransferState.CANCELLED

    def close(self) -> None:
        for _, _, transfer in self._ends:
            if transfer.pending:
                self.cancel(transfer)
        self._ends.clear()

    def _work(self, transfer: Transfer) -> None:
        try:
            for _ in transfer.steps():
                pass
        except Exception as error:  # whoever submitted it decides what that means
            transfer.error = error
        transfer.state = TransferState.DONE if transfer.error is None else TransferState.FAILED
