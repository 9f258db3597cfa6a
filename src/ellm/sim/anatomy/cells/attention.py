"""Attention with as many or fewer key-value heads than queries (MHA, GQA, MQA)."""

from __future__ import annotations

from dataclasses import dataclass

from ellm.core.units import ceil_div
from ellm.sim.anatomy.cell import Split
from ellm.sim.anatomy.shard import Heads, Product, Shard


@dataclass(frozen=True, slots=True)
class Attention:
    """`hidden` → queries, keys and values → `heads` × `head_dim` → `hidden`, after a norm.

    A task is a group of queries with their key-value head.  With more devices than key-value heads
    each is kept by several.  `bias` counts parameters of projections, `norms` of head norms.
    """

    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    window: int | None = None
    qkv_bias: bool = False
    out_bias: bool = False
    norms: int = 0
    rotary_dim: int = 0

    name = "attention"
    remembers = True

    @property
    def tasks(self) -> int:
        return self.heads

    def splits(self, devices: int) -> tuple[Split, ...]:
        if self.heads % devices or (self.kv_heads % devices and devices % self.kv_heads):
            return ()
        heads, kv_heads = self.heads // devices, ceil_div(self.kv_heads, devices)
        queries, qkv = heads * self.head_dim, (heads + 2 * kv_heads) * self.head_dim
        small = self.norms + qkv * self.qkv_bias + self.hidden * self.out_bias
        shard = Shard(
            products=(Product(self.hidden, qkv), Product(queries, self.hidden)),
            heads=Heads(heads, self.head_dim, self.head_dim, kv_heads, self.head_dim, self.window),
            small=small,
            # The norm's two passes, rotation and the cache's new row.
            moved=4 * self.hidden + 3 * qkv,
            live=queries + qkv,
        )
        return (Split("tensor", shard),)
