"""Sequences that wait for their turn."""

from __future__ import annotations

import heapq
from collections.abc import Iterator

from ellm.core.sequence import Sequence


class WaitingQueue:
    """First come, first served within a priority; a preempted sequence regains its old place."""

    def __init__(self) -> None:
        self._heap: list[tuple[tuple[int, int], Sequence]] = []
        self._members: set[int] = set()

    def __len__(self) -> int:
        return len(self._members)

    def push(self, sequence: Sequence) -> None:
        assert sequence.seq_id not in self._members, sequence.seq_id
        self._members.add(sequence.seq_id)
        heapq.heappush(self._heap, (sequence.order, sequence))

    def remove(self, sequence: Sequence) -> None:
        """Take `sequence` out wherever it stands; nothing happens if it is not here."""
        self._members.discard(sequence.seq_id)

    def drain(self) -> Iterator[Sequence]:
        """Pop sequences in order.  Push back those that cannot run yet, after the loop."""
        while self._heap:
            _, sequence = heapq.heappop(self._heap)
            if sequence.seq_id in self._members:
                self._members.remove(sequence.seq_id)
                yield sequence
