"""Which operation runs on which stream, and who waits for whom.

    G ─ reduced ─ E' ─ matching M ─ chains ─ second matching ─ streams
                   └─ edges between streams: |E'| − |M| waits

Two promises, in this order: operations without a path between them never share a stream, so
nothing that could overlap is kept from it; and of all such assignments this one has the fewest
waits.  A chain follows matched edges of E', and no node has two edges of E' into one stream (the
nearer end would replace the other), so at most |M| edges stay within streams.  Chains of which
one can only begin after the other has ended then share a stream, which changes no wait.

Source: Nimble (arXiv 2012.02732), section 4.2 and algorithm 1; waiting on the parents in E' only
is equivalent to waiting on all of them, and cheaper.
"""

from __future__ import annotations

from dataclasses import dataclass

from ellm.aot.graph import Dag, bits, chains
from ellm.aot.matching import match


@dataclass(frozen=True, slots=True)
class Streams:
    """`stream[v]` runs node v, after the nodes `waits[v]` of other streams have ended."""

    stream: tuple[int, ...]
    waits: tuple[tuple[int, ...], ...]

    @property
    def count(self) -> int:
        return 1 + max(self.stream, default=-1)

    @property
    def synchronisations(self) -> int:
        return sum(len(nodes) for nodes in self.waits)

    @classmethod
    def single(cls, count: int) -> Streams:
        """Everything in one stream, in order."""
        return cls((0,) * count, ((),) * count)

    def after(self) -> tuple[int, ...]:
        """For each node, all that surely begin after it has ended: a set of bits."""
        edges = [(before, node) for node, waits in enumerate(self.waits) for before in waits]
        last: dict[int, int] = {}
        for node, stream in enumerate(self.stream):
            if stream in last:
                edges.append((last[stream], node))
            last[stream] = node
        return Dag.of(len(self.stream), edges).reachable()


def assign(graph: Dag) -> Streams:
    """Streams for all nodes, node order within each; stream 0 has node 0."""
    reduced, reach = graph.reduced(), graph.reachable()
    found = chains(match([list(bits(later)) for later in reduced.after]))
    following = [
        [other for other, chain in enumerate(found) if reach[mine[-1]] >> chain[0] & 1]
        for mine in found
    ]
    stream = [0] * graph.count
    for number, together in enumerate(chains(match(following))):
        for chain in together:
            for node in found[chain]:
                stream[node] = number
    waits: list[list[int]] = [[] for _ in range(graph.count)]
    for before, later in reduced.edges:
        if stream[before] != stream[later]:
            waits[later].append(before)
    return Streams(tuple(stream), tuple(tuple(nodes) for nodes in waits))


def width(graph: Dag) -> int:
    """How many nodes can be under way at once, at most: the largest set without a path inside.

    Dilworth's theorem: as many as the chains that a matching of the closure leaves.
    """
    reach = graph.reachable()
    return graph.count - sum(
        partner is not None for partner in match([list(bits(later)) for later in reach])
    )
