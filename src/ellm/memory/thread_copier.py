"""Copies beside the computation: one thread each way.

    submit ──▶ in line ──▶ fenced ──▶ worked at ──▶ ended
                  └──────────┴───────── cancel

The thread sleeps in front of a transfer's fence, and touches nothing before it has passed.  Whoever
cancels does not wait for the fence: the thread finds the transfer gone when it wakes.
"""

from __future__ import annotations

import threading
import time
from collections import deque

from ellm.memory.fences import Fence
from ellm.memory.transfer import Direction, Transfer, TransferState


class ThreadCopier:
    """At most `bytes_per_second` each way; None is no limit.

    The threads start with the first transfer of their direction.  Copying and disk calls let go
    of the interpreter, so that a step computes meanwhile.
    """

    def __init__(self, bytes_per_second: float | None = None) -> None:
        self._rate = bytes_per_second
        self._changed = threading.Condition()
        self._waiting: dict[Direction, deque[Transfer]] = {way: deque() for way in Direction}
        self._fenced: dict[Direction, Transfer | None] = dict.fromkeys(Direction)
        self._working: dict[Direction, Transfer | None] = dict.fromkeys(Direction)
        self._cancelled: set[Transfer] = set()
        self._outcomes: deque[tuple[Transfer, Exception | None, float]] = deque()
        self._threads: dict[Direction, threading.Thread] = {}
        self._open = True

    def submit(self, transfer: Transfer) -> None:
        assert self._open
        way = transfer.direction
        if way not in self._threads:
            self._threads[way] = threading.Thread(
                target=self._run, args=(way,), name=f"ellm-copy-{way.value}", daemon=True
            )
            self._threads[way].start()
        with self._changed:
            self._waiting[way].append(transfer)
            self._changed.notify_all()

    def ended(self) -> list[Transfer]:
        transfers = []
        while self._outcomes:
            transfer, error, seconds = self._outcomes.popleft()
            transfer.error, transfer.seconds = error, seconds
            transfer.state = TransferState.DONE if error is None else TransferState.FAILED
            transfers.append(transfer)
        return transfers

    def wait(self, transfer: Transfer) -> None:
        with self._changed:
            self._changed.wait_for(lambda: not self._has(transfer))

    def cancel(self, transfer: Transfer) -> None:
        way = transfer.direction
        with self._changed:
            if transfer in self._waiting[way]:
                self._waiting[way].remove(transfer)
            elif self._fenced[way] is transfer:
                self._fenced[way] = None
            else:
                self._cancelled.add(transfer)
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._working[way] is not transfer)
                self._cancelled.discard(transfer)
            # It may have ended by itself a moment ago: then nobody is told of that.
            kept = [outcome for outcome in self._outcomes if outcome[0] is not transfer]
            self._outcomes = deque(kept)
        transfer.state = TransferState.CANCELLED

    def close(self) -> None:
        """Cancel everything; a fence that a thread sleeps at is waited for."""
        with self._changed:
            self._open = False
            begun = [*self._working.values(), *self._fenced.values()]
            left = [*begun, *(t for q in self._waiting.values() for t in q)]
        for transfer in left:
            if transfer is not None:
                self.cancel(transfer)
        with self._changed:
            self._changed.notify_all()
        for thread in self._threads.values():
            thread.join()

    def _has(self, transfer: Transfer) -> bool:
        way = transfer.direction
        begun = (self._working[way], self._fenced[way])
        return transfer in begun or transfer in self._waiting[way]

    def _run(self, way: Direction) -> None:
        waiting = self._waiting[way]
        while True:
            with self._changed:
                self._changed.wait_for(lambda: waiting or not self._open)
                if not waiting:
                    return
                transfer = self._fenced[way] = waiting.popleft()
            error = _pass(transfer.fence)
            with self._changed:
                if self._fenced[way] is not transfer:  # cancelled meanwhile
                    continue
                self._fenced[way], self._working[way] = None, transfer
            start = time.monotonic()
            error = error or self._work(transfer, start)
            with self._changed:
                self._outcomes.append((transfer, error, time.monotonic() - start))
                self._working[way] = None
                self._changed.notify_all()

    def _work(self, transfer: Transfer, start: float) -> Exception | None:
        """Do it, step by step, unless it is cancelled meanwhile; what stopped it otherwise."""
        done = 0
        try:
            for count in transfer.steps():
                done += count
                if transfer in self._cancelled:
                    break
                if self._rate is not None:
                    self._pause(transfer, start + done / self._rate)
        except Exception as error:  # the thread that submitted it decides what that means
            return error
        return None

    def _pause(self, transfer: Transfer, until: float) -> None:
        with self._changed:
            self._changed.wait_for(
                lambda: transfer in self._cancelled, max(0.0, until - time.monotonic())
            )


def _pass(fence: Fence | None) -> Exception | None:
    """Sleep until the fence has passed; what the work before it failed of, if it did."""
    try:
        if fence is not None:
            fence.wait()
    except Exception as error:
        return error
    return None
