"""Stream assignment against brute force: nothing that could overlap waits, and waits are fewest."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations, pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from ellm.aot.graph import Dag, chains
from ellm.aot.matching import match
from ellm.aot.streams import assign, width


@st.composite
def graphs(draw: st.DrawFn, most: int = 6) -> Dag:
    count = draw(st.integers(1, most))
    pairs = list(combinations(range(count), 2))
    chosen = draw(st.sets(st.sampled_from(pairs), max_size=len(pairs))) if pairs else set()
    return Dag.of(count, chosen)


def partitions(count: int) -> Iterator[list[int]]:
    """Every way to put `count` nodes into groups: group numbers, each first used in order."""

    def grow(groups: list[int]) -> Iterator[list[int]]:
        if len(groups) == count:
            yield groups
            return
        for group in range(max(groups, default=-1) + 2):
            yield from grow([*groups, group])

    yield from grow([])


def may_overlap(graph: Dag, one: int, other: int) -> bool:
    reach = graph.reachable()
    return not (reach[one] >> other & 1 or reach[other] >> one & 1)


def keeps_all_concurrency(graph: Dag, stream: list[int]) -> bool:
    pairs = combinations(range(graph.count), 2)
    return not any(stream[a] == stream[b] and may_overlap(graph, a, b) for a, b in pairs)


@settings(max_examples=300)
@given(graphs())
def test_no_assignment_keeps_all_concurrency_with_fewer_waits(graph: Dag) -> None:
    found = assign(graph)
    assert keeps_all_concurrency(graph, list(found.stream))
    edges = graph.reduced().edges
    fewest = min(
        sum(stream[a] != stream[b] for a, b in edges)
        for stream in partitions(graph.count)
        if keeps_all_concurrency(graph, stream)
    )
    assert found.synchronisations == fewest
    assert found.count >= width(graph)


@given(graphs(most=12))
def test_waits_and_streams_keep_every_dependency(graph: Dag) -> None:
    found = assign(graph)
    edges = {(before, node) for node, waits in enumerate(found.waits) for before in waits}
    for stream in range(found.count):
        mine = [node for node in range(graph.count) if found.stream[node] == stream]
        edges |= set(pairwise(mine))
    assert Dag.of(graph.count, edges).reachable() == graph.reachable()


@given(graphs())
def test_reduction_is_the_smallest_with_the_same_reachability(graph: Dag) -> None:
    reduced = graph.reduced()
    assert reduced.reachable() == graph.reachable()
    for gone in reduced.edges:
        fewer = Dag.of(graph.count, [edge for edge in reduced.edges if edge != gone])
        assert fewer.reachable() != graph.reachable()


@given(graphs())
def test_width_is_the_largest_set_that_may_overlap(graph: Dag) -> None:
    nodes = range(graph.count)
    sets = (some for size in range(1, graph.count + 1) for some in combinations(nodes, size))
    overlapping = (
        len(some)
        for some in sets
        if all(may_overlap(graph, a, b) for a, b in combinations(some, 2))
    )
    assert width(graph) == max(overlapping)


@given(st.lists(st.sets(st.integers(0, 6), max_size=4), min_size=1, max_size=6))
def test_matching_is_largest(edges: list[set[int]]) -> None:
    found = match([sorted(candidates) for candidates in edges])
    pairs = [(node, partner) for node, partner in enumerate(found) if partner is not None]
    assert all(partner in edges[node] for node, partner in pairs)
    assert len({partner for _, partner in pairs}) == len(pairs)

    def best(node: int, used: frozenset[int]) -> int:
        if node == len(edges):
            return 0
        taken = (1 + best(node + 1, used | {one}) for one in edges[node] - used)
        return max(best(node + 1, used), *taken, 0)

    assert len(pairs) == best(0, frozenset())


def test_chains_of_a_long_line_need_no_recursion() -> None:
    count = 5000
    graph = Dag.of(count, [(node, node + 1) for node in range(count - 1)])
    assert assign(graph).count == 1
    assert chains([*range(1, count), None]) == [list(range(count))]
