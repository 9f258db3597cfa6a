"""The largest matching of a bipartite graph.

Source: Hopcroft and Karp, "An n^5/2 algorithm for maximum matchings in bipartite graphs", SIAM
Journal on Computing 2(4), 1973.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence

_FAR = 1 << 60


def match(edges: Sequence[Sequence[int]]) -> list[int | None]:
    """A partner on the right for each node on the left, or None; `edges[u]` are u's candidates."""
    right: dict[int, int] = {}
    left: list[int | None] = [None] * len(edges)
    while True:
        layers = _layers(edges, left, right)
        if layers is None:
            return left
        untried = [iter(candidates) for candidates in edges]
        for node, partner in enumerate(left):
            if partner is None:
                _augment(node, untried, layers, left, right)


def _layers(
    edges: Sequence[Sequence[int]], left: Sequence[int | None], right: dict[int, int]
) -> list[int] | None:
    """Distance of every left node from an unmatched one; None if no path ends unmatched."""
    layers = [0 if partner is None else _FAR for partner in left]
    waiting = deque(node for node, partner in enumerate(left) if partner is None)
    ends = False
    while waiting:
        node = waiting.popleft()
        for candidate in edges[node]:
            owner = right.get(candidate)
            if owner is None:
                ends = True
            elif layers[owner] == _FAR:
                layers[owner] = layers[node] + 1
                waiting.append(owner)
    return layers if ends else None


def _augment(
    start: int,
    untried: Sequence[Iterator[int]],
    layers: list[int],
    left: list[int | None],
    right: dict[int, int],
) -> bool:
    """Find one shortest alternating path from `start` and swap along it.  No recursion: long."""
    path: list[tuple[int, int]] = []
    node = start
    while True:
        for candidate in untried[node]:
            owner = right.get(candidate)
            if owner is None:
                path.append((node, candidate))
                for one, its in path:
                    left[one], right[its] = its, one
                return True
            if layers[owner] == layers[node] + 1:
                path.append((node, candidate))
                node = owner
                break
        else:
            layers[node] = _FAR
            if not path:
                return False
            node, _ = path.pop()
