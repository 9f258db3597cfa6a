"""Sequences that wait for their turn."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from heapq import heapify, heappop, heappush
from itertools import count

from ellm.core.sequence import Sequence

Rank = Callable[[Sequence, float], tuple[float, ...]]
Lane = tuple[float, ...]
Entry = tuple[tuple[float, ...], int, Sequence]

# Entries of sequences that have left are cleared away when they outnumber the others by so many.
STALE = 64


def first_come(sequence: Sequence, now: float) -> tuple[float, ...]:
    """The rank of first come, first served within a priority."""
    return (sequence.request.priority, 0, sequence.seq_id)


class WaitingQueue:
    """Orders sequences by a rank that may change as time passes, without ranking all of them.

    A rank is (priority, lane, key, …).  Each priority and lane is a heap:

        priority 0   lane 0  ▒▒             lowest first: all of lane 0, then lane 1, …
                     lane 1  ▓▓▓▓▓▓▓▓ ──┐
                     lane 2  ░░░░░ ◄────┘   a head whose lane has changed moves over
        priority 1   lane 1  ▓▓▓

    Only heads are ranked again, at the start of `drain` and when they are about to be handed out.
    So a policy may let time change the lane, and must see to it that in each lane who stands in
    front changes first (or that it does no harm to learn of it late); keys must not change.  A
    preempted sequence regains its old place if its key is old.
    """

    def __init__(self, rank: Rank = first_come) -> None:
        self._rank = rank
        self._lanes: dict[Lane, list[Entry]] = {}
        self._tickets: dict[int, int] = {}
        self._numbers = count()
        self._stale = 0
        self._now = 0.0

    def __len__(self) -> int:
        return len(self._tickets)

    def push(self, sequence: Sequence) -> None:
        assert sequence.seq_id not in self._tickets, sequence.seq_id
        ticket = self._tickets[sequence.seq_id] = next(self._numbers)
        self._file(sequence, ticket)

    def remove(self, sequence: Sequence) -> None:
        """Take `sequence` out wherever it stands; nothing happens if it is not here."""
        if self._tickets.pop(sequence.seq_id, None) is None:
            return
        self._stale += 1
        if self._stale > len(self._tickets) + STALE:
            self._clear_away()

    def drain(self, now: float = 0.0) -> Iterator[Sequence]:
        """Pop sequences in their order at `now`.

        Push back those that cannot run yet, after the loop.
        """
        self._now = now
        for lane in list(self._lanes):
            self._settle(lane)
        while self._lanes:
            lane = min(self._lanes)
            if self._settle(lane) and lane == min(self._lanes):
                sequence = self._take(lane)
                del self._tickets[sequence.seq_id]
                yield sequence

    def _file(self, sequence: Sequence, ticket: int) -> None:
        rank = self._rank(sequence, self._now)
        assert len(rank) > 2, rank
        heappush(self._lanes.setdefault(rank[:2], []), (rank[2:], ticket, sequence))

    def _take(self, lane: Lane) -> Sequence:
        """Pop the head of `lane`, and the lane with its last entry."""
        heap = self._lanes[lane]
        _, _, sequence = heappop(heap)
        if not heap:
            del self._lanes[lane]
        return sequence

    def _settle(self, lane: Lane) -> bool:
        """Move heads until one belongs into `lane`; False if none is left."""
        while lane in self._lanes:
            _, ticket, sequence = self._lanes[lane][0]
            if self._tickets.get(sequence.seq_id) != ticket:
                self._take(lane)
                self._stale -= 1
            elif self._rank(sequence, self._now)[:2] == lane:
                return True
            else:
                self._take(lane)
                self._file(sequence, ticket)
        return False

    def _clear_away(self) -> None:
        """Drop the entries of sequences that have left."""
        for lane, heap in list(self._lanes.items()):
            heap[:] = [entry for entry in heap if self._tickets.get(entry[2].seq_id) == entry[1]]
            heapify(heap)
            if not heap:
                del self._lanes[lane]
        self._stale = 0
