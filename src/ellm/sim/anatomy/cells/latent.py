"""Attention over a compressed cache (latent attention, DeepSeek-V2, arXiv 2405.04434)."""

from __future__ import annotations

from dataclasses import dataclass

from ellm.core.units import ceil_div
from ellm.sim.anatomy.cell import Split
from ellm.sim.anatomy.shard import Heads, Product, Shard


@dataclass(frozen=True, slots=True)
class LatentAttention:
    """Keys and values of all heads come from `kv_rank` cached numbers and `rope_dim` more.

    A prompt expands them; a single token is compared with the cache as it is, through the
    absorbed projections (section 2.1.2).  The cache is whole on every device.
    """

    hidden: int
    heads: int
    query_rank: int
    kv_rank: int
    plain_dim: int
    rope_dim: int
    value_dim: int

    name = "attention"
    remembers = True

    @property
    def tasks(self) -> int:
        return self.heads

    def splits(self, devices: int) -> tuple[Split, ...]:
        if self.heads % devices:
            return ()
        heads, cached = self.heads // devices, self.kv_rank + self.rope_dim
        key_dim = self.plain_dim + self.rope_dim
        queries = heads * key_dim
        to_queries = [Product(self.query_rank or self.hidden, queries)]
        if self.query_rank:
            to_queries.insert(0, Product(self.hidden, self.query_rank))
        expanded = heads * (self.plain_dim + self.value_dim)
        shard = Shard(
            products=(
                *to_queries,
                Product(self.hidden, cached),
                Product(self.kv_rank, expanded),
                Product(heads * self.value_dim, self.hidden),
            ),
            heads=Heads(
                queries=heads,
                key_dim=key_dim,
                value_dim=self.value_dim,
                kv_heads=1,
                stored_dim=ceil_div(cached, 2),
                alone_dim=cached + self.kv_rank,
            ),
            small=self.hidden + self.query_rank + self.kv_rank,
            moved=4 * self.hidden + 2 * queries + 2 * cached + expanded,
            live=queries + self.query_rank + cached + expanded + heads * self.value_dim,
        )
        return (Split("tensor", shard),)
