"""Mixing by a state of fixed size: linear attention, gated delta rule, Mamba 2."""

from __future__ import annotations

from dataclasses import dataclass

from ellm.sim.anatomy.cell import Split
from ellm.sim.anatomy.shard import Product, Shard


@dataclass(frozen=True, slots=True)
class Recurrent:
    """`heads` heads that each keep `key_dim` × `value_dim` numbers, and read `key_heads` keys.

    A short convolution looks `reach` tokens back.  The state is updated for every token: what that
    moves and computes is counted as a product with the state (Mamba 2, arXiv 2405.21060).
    """

    hidden: int
    heads: int
    key_heads: int
    key_dim: int
    value_dim: int
    reach: int = 4

    name = "recurrent"
    remembers = True

    @property
    def tasks(self) -> int:
        return self.heads

    def splits(self, devices: int) -> tuple[Split, ...]:
        if self.heads % devices or self.key_heads % devices:
            return ()
        heads, key_heads = self.heads // devices, self.key_heads // devices
        values, keys = heads * self.value_dim, key_heads * self.key_dim
        # Values, their gate, queries and keys, and two gates a head.
        inner = 2 * values + 2 * keys + 2 * heads
        mixed = values + 2 * keys
        state = heads * self.key_dim * self.value_dim
        shard = Shard(
            products=(Product(self.hidden, inner), Product(values, self.hidden)),
            small=self.hidden + self.reach * mixed + 3 * heads + self.value_dim,
            moved=4 * self.hidden + 3 * inner,
            live=inner + values,
            state=state + (self.reach - 1) * mixed,
        )
        return (Split("tensor", shard),)
