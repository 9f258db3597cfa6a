"""A cell: what a block is made of, and what a plan divides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from ellm.sim.anatomy.shard import Shard


@dataclass(frozen=True, slots=True)
class Exchange:
    """A collective among all devices of a pipeline stage in which each device has
    `numbers` of each token that it computed attention for."""

    collective: str
    numbers: float


@dataclass(frozen=True, slots=True)
class Split:
    """One way to divide a copy of a cell over devices.

    Without `exchanges` the devices of a copy all see its tokens and end with partial sums of the
    answer.  With them tokens are spread over the devices before and after, and the exchanges bring
    them where they are computed and back.
    """

    name: str
    shard: Shard
    exchanges: tuple[Exchange, ...] = ()

    @property
    def scatters(self) -> bool:
        return bool(self.exchanges)


class Cell(Protocol):
    """A part of a block that reads the residual stream and adds to it.

    Frozen and hashable: blocks that are alike are costed once.
    """

    @property
    def name(self) -> str:
        """What a plan calls it."""
        ...

    @property
    def tasks(self) -> int:
        """How many pieces it can be divided into: heads, filters, experts."""
        ...

    @property
    def remembers(self) -> bool:
        """Whether it keeps something of each sequence, which only the device that computed
        it can use."""
        ...

    def splits(self, devices: int) -> Sequence[Split]:
        """All ways to divide it over so many devices; none if it cannot be."""
        ...
