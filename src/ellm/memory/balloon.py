"""Makes room for one owner by asking the others to give chunks back, cheapest first."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ellm.memory.pool import ChunkPool


@dataclass(frozen=True, slots=True)
class Giver:
    """An owner that can give: `give(count)` frees up to `count` chunks and says how many.

    `cost` orders the givers by what it costs to get the chunks back later; its unit is nothing.
    """

    owner: str
    give: Callable[[int], int]
    cost: float


class Balloon:
    """Moves chunks of one pool between owners, within the floors and ceilings of its ledger."""

    def __init__(self, pool: ChunkPool) -> None:
        self.pool = pool
        self._givers: list[Giver] = []

    def register(self, owner: str, give: Callable[[int], int], cost: float) -> None:
        """Ask `owner` too; one owner may register several ways to give, each with its cost."""
        self._givers.append(Giver(owner, give, cost))
        self._givers.sort(key=lambda giver: giver.cost)

    def make_room(self, count: int, owner: str) -> bool:
        """Whether `owner` can take `count` chunks now, others having given what they must.

        The owner itself is never asked, nobody is asked to go below its floor, and nobody at all
        where the owner's ceiling or the floors of others forbid the taking anyway.
        """
        pool, ledger = self.pool, self.pool.ledger
        if count > ledger.attainable(owner):
            return False
        for giver in self._givers:
            lacking = count - pool.available(owner)
            if lacking <= 0:
                break
            spare = ledger.spare(giver.owner)
            if giver.owner != owner and spare:
                giver.give(min(lacking, spare))
        return pool.available(owner) >= count
