"""Asks those who hold more than they need to give chunks back, cheapest first.

    wants    kv 3, activations 1          who is asked, while something is lacking
    lacks    2 chunks            ────▶    premapped ▸ workspace ▸ warm ranges ▸ prefixes ▸ models

Inflation is KV taking what activations left idle; deflation, always as late as can be, is
activations taking what KV can spare (eLLM, arXiv 2506.15155, elastic mechanism).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import IntEnum
from typing import Protocol

from ellm.memory.pool import ChunkPool


class Cost(IntEnum):
    """What it costs to do without a chunk later, in order."""

    PREMAPPED = 0  # mapped again within the next few tokens, from whatever is free then
    WORKSPACE = 1  # mapped again when a step is as large
    WARM = 2  # mapped again for the next sequence
    LEAVING = 3  # free as soon as a copy has ended
    PREFIX = 4  # computed, or fetched, again if someone begins alike
    MODEL = 5  # loaded again


class Source(Protocol):
    """Someone who holds chunks that it can do without.

    `group` is the ledger group that is charged for them, and `owner` the one in it, empty for
    several.  Among sources of equal cost the one unused for longest is asked first; `used` is when
    it was last of use, in seconds.
    """

    @property
    def name(self) -> str: ...
    @property
    def group(self) -> str: ...
    @property
    def owner(self) -> str: ...
    @property
    def cost(self) -> Cost: ...
    @property
    def used(self) -> float: ...

    def idle(self) -> int:
        """Chunks it could give back now."""
        ...

    def release(self, count: int) -> int:
        """Give back at least `count` chunks if there are as many; how many became free."""
        ...


Moved = Callable[[Source, Mapping[str, int], int], None]
"""Told who gave how many chunks, and for whom."""


class Balloon:
    """The sources of one pool."""

    def __init__(self, pool: ChunkPool) -> None:
        self._pool = pool
        self._sources: list[Source] = []

    def register(self, source: Source) -> None:
        self._sources.append(source)

    def unregister(self, source: Source) -> None:
        self._sources.remove(source)

    def idle(self) -> int:
        """Chunks that all sources together could give back now."""
        return sum(source.idle() for source in self._sources)

    def idle_at(self, cost: Cost) -> int:
        """Chunks that the sources of one cost could give back now."""
        return sum(source.idle() for source in self._sources if source.cost is cost)

    def make_room(
        self,
        wants: Callable[[], Mapping[str, int]],
        group: str = "",
        most: Cost = Cost.MODEL,
        moved: Moved | None = None,
    ) -> bool:
        """Whether the owners, all of `group`, can have what they want, now or after asking.

        `wants` is chunks by owner, and is asked again after every release, which may change it.
        Sources that cost more than `most` are left alone.
        """
        lack = self._pool.ledger.lacking(wants())
        if not lack:
            return True
        asked = [source for source in self._sources if source.cost <= most]
        for source in sorted(asked, key=lambda source: (source.cost, source.used)):
            own = source.group == group
            while count := lack.of(source.owner) if own else self._spare(source, lack.pool):
                freed = source.release(count)
                if not freed:
                    break
                if moved is not None:
                    moved(source, wants(), freed)
                lack = self._pool.ledger.lacking(wants())
            if not lack:
                return True
        return False

    def shrink(self) -> bool:
        """Whether the pool holds no more than its total, now or after asking everyone."""
        return self.make_room(dict)

    def _spare(self, source: Source, count: int) -> int:
        """`count`, cut to what the source's group has beyond its floor, which is its right."""
        if not source.group:
            return count
        return min(count, self._pool.ledger.group_spare(source.group))
