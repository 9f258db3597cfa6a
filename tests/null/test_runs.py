"""Runs of whole numbers against a plain set."""

from __future__ import annotations

from itertools import pairwise
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from ellm.memory.runs import RunSet, adjacent_runs


def test_runs_follow_the_order_given() -> None:
    assert list(adjacent_runs([3, 4, 5, 9, 7, 8])) == [(3, 6), (9, 10), (7, 9)]
    assert list(adjacent_runs([2, 1, 0])) == [(2, 3), (1, 2), (0, 1)]
    assert list(adjacent_runs([])) == []


def test_the_tightest_run_is_taken_first() -> None:
    runs = RunSet(0, 20)
    assert runs.take(20) == list(range(20))
    runs.add([0, 1, 2, 3, 5, 6, 8, 9, 10])
    assert runs.take(2) == [5, 6]
    assert runs.take(2) == [8, 9]
    assert runs.take(4) == [0, 1, 2, 3]
    assert runs.take(1) == [10]


def test_where_no_run_is_long_enough_the_longest_go() -> None:
    runs = RunSet()
    runs.add([0, 1, 4, 5, 6, 9])
    assert runs.take(5) == [4, 5, 6, 0, 1]
    assert runs.runs() == [(9, 10)]


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 12)), max_size=40), st.randoms())
def test_it_is_a_set_whose_runs_never_touch(steps: list[tuple[bool, int]], random: Random) -> None:
    runs, inside, outside = RunSet(0, 16), set(range(16)), set()
    for taking, count in steps:
        if taking:
            taken = runs.take(min(count, len(inside)))
            assert len(set(taken)) == len(taken) == min(count, len(inside))
            assert inside.issuperset(taken)
            longest = max(
                (stop - start for start, stop in adjacent_runs(sorted(inside))), default=0
            )
            if len(taken) <= longest:
                assert len(list(adjacent_runs(taken))) <= 1
            inside.difference_update(taken)
            outside.update(taken)
        else:
            back = random.sample(sorted(outside), min(count, len(outside)))
            runs.add(back)
            inside.update(back)
            outside.difference_update(back)
        assert len(runs) == len(inside)
        assert [n for start, stop in runs.runs() for n in range(start, stop)] == sorted(inside)
        assert all(left[1] < right[0] for left, right in pairwise(runs.runs()))


@given(st.lists(st.integers(0, 63), unique=True), st.integers(1, 20), st.sampled_from([1, 2, 4, 8]))
def test_where_a_run_allows_it_numbers_begin_aligned(
    inside: list[int], count: int, align: int
) -> None:
    runs = RunSet()
    runs.add(inside)
    if count > len(inside):
        return
    taken = runs.take(count, align)
    possible = any(set(range(first, first + count)) <= set(inside) for first in range(0, 64, align))
    if possible:
        assert taken == list(range(taken[0], taken[0] + count))
        assert taken[0] % align == 0
    left = sorted(set(inside) - set(taken))
    assert [n for start, stop in runs.runs() for n in range(start, stop)] == left
