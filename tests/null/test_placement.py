"""Models are spread over devices by what they weigh and how much they are asked."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from ellm.sim.placement import Demand, balanced, crowded, housed

demands = st.lists(st.builds(Demand, st.integers(1, 50), st.floats(0, 10)), max_size=12)


def numbers(places: Sequence[Sequence[int]]) -> list[int]:
    return sorted(number for place in places for number in place)


@given(demands, st.integers(1, 4), st.integers(20, 100))
def test_only_what_fits_is_housed_and_all_are_in_a_crowd(
    asked: list[Demand], devices: int, room: int
) -> None:
    here, crowd = housed(asked, devices, room), crowded(asked, devices, room)
    assert len(here) == len(crowd) == devices
    assert all(sum(asked[n].size for n in place) <= room for place in here)
    assert numbers(crowd) == numbers(balanced(asked, devices)) == list(range(len(asked)))
    assert all(set(few) <= set(many) for few, many in zip(here, crowd, strict=True))


def test_the_one_that_is_asked_least_for_its_size_stays_away() -> None:
    asked = [Demand(40, 5.0), Demand(40, 1.0), Demand(40, 4.0)]
    assert sorted(housed(asked, 2, 50)) == [[0], [2]]
    # It takes turns with whoever weighs less.
    assert sorted(crowded(asked, 2, 50)) == [[0], [1, 2]]
