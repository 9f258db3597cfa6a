"""The feed-forward half of a block: two matrices, or three with a gate (GLU, SwiGLU)."""

from __future__ import annotations

from dataclasses import dataclass

from ellm.core.units import ceil_div
from ellm.sim.anatomy.cell import Split
from ellm.sim.anatomy.shard import Product, Shard


@dataclass(frozen=True, slots=True)
class Mlp:
    """`hidden` → `filters` → `hidden`, after a norm; gate and up are one product, as engines do it.

    A task is a filter.
    """

    hidden: int
    filters: int
    gated: bool = True
    bias: bool = False
    norms: int = 0

    name = "mlp"
    remembers = False

    @property
    def tasks(self) -> int:
        return self.filters

    def splits(self, devices: int) -> tuple[Split, ...]:
        filters = ceil_div(self.filters, devices)
        up = filters * (2 if self.gated else 1)
        shard = Shard(
            products=(Product(self.hidden, up), Product(filters, self.hidden)),
            small=self.norms + (up + self.hidden) * self.bias,
            moved=4 * self.hidden + up + filters,
            live=up + filters,
        )
        return (Split("tensor", shard),)
