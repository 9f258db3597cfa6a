"""The queue hands out sequences in the order of ranks that time changes."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from ellm.core.request import Request
from ellm.core.sampling import SamplingParams
from ellm.core.sequence import Sequence
from ellm.scheduling.queue import STALE, Rank, WaitingQueue


def sequence(number: int, arrival: float = 0.0, priority: int = 0) -> Sequence:
    request = Request(
        request_id=f"r{number}",
        prompt=(1,),
        params=SamplingParams(),
        arrival=arrival,
        priority=priority,
    )
    return Sequence(number, request)


def test_arrival_within_a_priority() -> None:
    queue = WaitingQueue()
    for number, priority in enumerate([1, 0, 0, 1, -1]):
        queue.push(sequence(number, priority=priority))
    assert [s.seq_id for s in queue.drain()] == [4, 1, 2, 0, 3]
    assert len(queue) == 0


def test_who_is_pushed_back_regains_its_place() -> None:
    queue = WaitingQueue()
    everyone = [sequence(number) for number in range(5)]
    for one in everyone:
        queue.push(one)
    for one in queue.drain():
        if one.seq_id == 2:
            break
    queue.push(everyone[0])
    queue.push(everyone[2])
    assert [s.seq_id for s in queue.drain()] == [0, 2, 3, 4]


def ageing(late_after: dict[int, float], first_after: dict[int, float]) -> Rank:
    """A rank by number; lane 1 at first, lane 2 after one moment, lane 0 after another."""

    def rank(one: Sequence, now: float) -> tuple[float, ...]:
        lane = 1
        if now >= late_after.get(one.seq_id, 1e9):
            lane = 2
        if now >= first_after.get(one.seq_id, 1e9):
            lane = 0
        return (one.request.priority, lane, one.seq_id)

    return rank


def test_heads_change_lanes_as_time_passes() -> None:
    queue = WaitingQueue(ageing({0: 5, 1: 5, 2: 9}, {0: 20, 1: 30}))
    everyone = [sequence(number) for number in range(4)]

    def order(now: float) -> list[int]:
        found = list(queue.drain(now))
        for one in found:
            queue.push(one)
        return [one.seq_id for one in found]

    for one in everyone:
        queue.push(one)
    assert order(0) == [0, 1, 2, 3]
    assert order(5) == [2, 3, 0, 1]
    assert order(10) == [3, 0, 1, 2]
    assert order(20) == [0, 3, 1, 2]
    assert order(30) == [0, 1, 3, 2]
    assert order(0) == [0, 1, 2, 3]  # nothing is remembered but the key


def test_only_heads_are_ranked_again() -> None:
    calls: Counter[int] = Counter()

    def rank(one: Sequence, now: float) -> tuple[float, ...]:
        calls[one.seq_id] += 1
        return (0, one.seq_id % 3, one.seq_id)

    queue = WaitingQueue(rank)
    for number in range(3000):
        queue.push(sequence(number))
    calls.clear()
    for now in range(10):
        first = next(queue.drain(now))
        queue.push(first)
    assert set(calls) == {0, 1, 2}
    assert calls.total() <= 10 * 5


def test_those_who_left_leave_no_trace() -> None:
    queue = WaitingQueue()
    everyone = [sequence(number, priority=number % 2) for number in range(10_000)]
    for one in everyone:
        queue.push(one)
    for one in everyone[5:]:
        queue.remove(one)
        queue.remove(one)
    assert len(queue) == 5
    assert sum(len(heap) for heap in queue._lanes.values()) <= 2 * 5 + STALE + 1
    assert [s.seq_id for s in queue.drain()] == [0, 2, 4, 1, 3]
    assert not queue._lanes
    assert queue._stale == 0


@settings(max_examples=80)
@given(data=st.data())
def test_a_queue_is_a_sorted_list(data: st.DataObject) -> None:
    """Against ranking everyone at every drain.

    Within a lane who stands in front changes first, as a policy must see to.
    """
    numbers = range(12)
    moments = st.lists(st.integers(0, 20), min_size=12, max_size=12).map(sorted)
    late = dict(zip(numbers, map(float, data.draw(moments)), strict=True))
    first = {n: late[n] + 5 for n in numbers}
    rank = ageing(late, first)
    queue = WaitingQueue(rank)
    everyone = [sequence(n, priority=data.draw(st.integers(0, 1))) for n in numbers]
    inside: set[int] = set()
    now = 0.0
    for _ in range(data.draw(st.integers(1, 25))):
        one = everyone[data.draw(st.integers(0, 11))]
        if one.seq_id in inside:
            queue.remove(one)
            inside.discard(one.seq_id)
        else:
            queue.push(one)
            inside.add(one.seq_id)
        assert len(queue) == len(inside)
        if data.draw(st.booleans()):
            now += data.draw(st.integers(0, 6))
            wanted = sorted((everyone[n] for n in inside), key=lambda s: rank(s, now))
            take = data.draw(st.integers(1, 12))
            found = []
            for one in queue.drain(now):
                found.append(one)
                if len(found) == take:
                    break
            assert found == wanted[:take]
            for one in found:
                if data.draw(st.booleans()):
                    queue.push(one)
                else:
                    inside.discard(one.seq_id)
