"""How the layers of a model are laid side by side in the arena."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from ellm.core.layers import LayerSpec
from ellm.core.units import MIB, ceil_div, round_up

# A sequence of one token pins one chunk per group.  One mebibyte is small beside any model, and
# still leaves small models on small chunks one layer a group, the kindest order for a cache line.
MOST_PINNED_BYTES = MIB
# Where layers come and go each for itself, it takes groups enough on large chunks too: as many as
# pin what so many tokens take.  More cost short sequences more than sending layers alone gains.
LAYERED_TOKENS = 64


@dataclass(frozen=True, slots=True)
class KvGeometry:
    """Rows of `row_bytes`, in `groups` groups of `layers_per_group` layers (core/layers.py)."""

    layer: LayerSpec
    num_layers: int
    layers_per_group: int
    # Kept, not made when asked: every step asks of every sequence how many chunks it holds.
    groups: int = field(init=False, repr=False, compare=False)
    row_bytes: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "groups", self.num_layers // self.layers_per_group)
        object.__setattr__(self, "row_bytes", self.layers_per_group * self.layer.token_bytes)

    @property
    def token_bytes(self) -> int:
        """KV bytes of one token over all layers."""
        return self.num_layers * self.layer.token_bytes

    def range_bytes(self, tokens: int, chunk_bytes: int) -> int:
        """Address room for one group of one sequence: whole chunks, and whole rows."""
        return round_up(tokens * self.row_bytes, math.lcm(chunk_bytes, self.row_bytes))

    def contiguous_chunks(self, tokens: int, chunk_bytes: int) -> int:
        """Chunks that one contiguous sequence of `tokens` holds."""
        return self.groups * ceil_div(tokens * self.row_bytes, chunk_bytes)


def most_pinned(token_bytes: int, layered: bool) -> int:
    """Bytes that a sequence of one token may pin; a token takes `token_bytes` in all layers."""
    return max(MOST_PINNED_BYTES, LAYERED_TOKENS * token_bytes if layered else 0)


def choose_geometry(
    layers: Sequence[LayerSpec], chunk_bytes: int, most_pinned: int = MOST_PINNED_BYTES
) -> KvGeometry:
    """The fewest layers a group such that a short sequence pins at most `most_pinned` bytes.

    With more than `most_pinned` in a single chunk, all layers share one group.
    """
    first = layers[0]
    shapes = {(spec.kv_heads, spec.head_dim, spec.itemsize) for spec in layers}
    assert len(shapes) == 1, f"layers keep KV of different shapes: {shapes}"
    count = len(layers)
    divisors = [d for d in range(1, count + 1) if count % d == 0]
    for per_group in divisors:
        if (count // per_group) * chunk_bytes <= most_pinned:
            return KvGeometry(first, count, per_group)
    return KvGeometry(first, count, count)
