"""Who must wait for whom: a directed acyclic graph as sets of bits.

A set of nodes is an int whose bit v is node v; reachability of a few thousand nodes is then a few
thousand or-operations on wide integers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass


def bits(nodes: int) -> Iterator[int]:
    """The members of a set, ascending."""
    while nodes:
        lowest = nodes & -nodes
        yield lowest.bit_length() - 1
        nodes ^= lowest


@dataclass(frozen=True, slots=True)
class Dag:
    """`after[u]` are the nodes that wait for node u itself, all of them larger than u."""

    after: tuple[int, ...]

    @classmethod
    def of(cls, count: int, edges: Iterable[tuple[int, int]]) -> Dag:
        after = [0] * count
        for before, later in edges:
            assert 0 <= before < later < count, (before, later, count)
            after[before] |= 1 << later
        return cls(tuple(after))

    @property
    def count(self) -> int:
        return len(self.after)

    @property
    def edges(self) -> list[tuple[int, int]]:
        return [
            (before, later) for before in range(self.count) for later in bits(self.after[before])
        ]

    def reachable(self) -> tuple[int, ...]:
        """For each node, all that wait for it, directly or not."""
        reach = [0] * self.count
        for node in reversed(range(self.count)):
            found = self.after[node]
            for later in bits(self.after[node]):
                found |= reach[later]
            reach[node] = found
        return tuple(reach)

    def reduced(self) -> Dag:
        """The fewest edges with the same reachability: the minimum equivalent graph, E' in Nimble.

        Of an acyclic graph it is unique: the edges that no longer path replaces.
        """
        reach = self.reachable()
        kept = []
        for edges in self.after:
            replaced = 0
            for later in bits(edges):
                replaced |= reach[later]
            kept.append(edges & ~replaced)
        return Dag(tuple(kept))


def chains(partners: Sequence[int | None]) -> list[list[int]]:
    """Paths that follow each node to its partner, by first node; every node is in one."""
    has_before = {partner for partner in partners if partner is not None}
    found = []
    for start in range(len(partners)):
        if start in has_before:
            continue
        chain, node = [], start
        while True:
            chain.append(node)
            following = partners[node]
            if following is None:
                break
            node = following
        found.append(chain)
    return found
