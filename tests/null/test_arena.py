"""Planned results never meet while both are needed, and do not take more than they must."""

from __future__ import annotations

from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st

from ellm.aot.arena import Result, place
from ellm.aot.graph import Dag


@st.composite
def plans(draw: st.DrawFn) -> tuple[list[Result], tuple[int, ...]]:
    count = draw(st.integers(1, 8))
    pairs = list(combinations(range(count), 2))
    edges = draw(st.sets(st.sampled_from(pairs))) if pairs else set()
    results = []
    for maker in range(count):
        readers = {later for before, later in edges if before == maker}
        results.append(Result(maker, frozenset({maker, *readers}), draw(st.integers(1, 500))))
    return results, Dag.of(count, edges).reachable()


@given(plans())
def test_what_may_be_alive_together_is_apart(
    plan: tuple[list[Result], tuple[int, ...]],
) -> None:
    results, after = plan
    offsets, total = place(results, after)
    for (one, a), (other, b) in combinations(zip(results, offsets, strict=True), 2):
        apart = a + one.size <= b or b + other.size <= a
        one_first = all(after[user] >> other.maker & 1 for user in one.users)
        other_first = all(after[user] >> one.maker & 1 for user in other.users)
        assert apart or one_first or other_first
    assert all(offset % 64 == 0 for offset in offsets)
    assert total <= sum(-(-one.size // 64) * 64 for one in results)


def test_a_line_needs_two_places() -> None:
    results = [Result(node, frozenset({node, node + 1}), 64) for node in range(9)]
    after = Dag.of(10, [(node, node + 1) for node in range(9)]).reachable()
    assert place(results, after)[1] == 128
