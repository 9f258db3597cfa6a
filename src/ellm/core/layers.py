"""What a model keeps per token, and where it lies in the KV arena.

The arena is one address range.  It is cut into *rows*; a row holds, for one token, the keys and
values of `layers_per_group` neighbouring layers:

    row        K0 V0 K1 V1 ...                       row_bytes wide
    group g    rows [g * group_rows, ...) after a token's row in group 0

    address(layer, row) = base + (row + group * group_rows) * row_bytes
                               + (layer % layers_per_group) * 2 * plane_bytes

so the same row number finds a token in every layer.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LayerSpec:
    """What one attention layer keeps for each token.  `window` tokens are seen; None is all."""

    kv_heads: int
    head_dim: int
    itemsize: int
    window: int | None = None

    @property
    def plane_bytes(self) -> int:
        """Bytes of one token's keys (as many again for its values)."""
        return self.kv_heads * self.head_dim * self.itemsize

    @property
    def token_bytes(self) -> int:
        return 2 * self.plane_bytes


@dataclass(frozen=True, slots=True)
class KvArena:
    """Where every key and value is: all an attention kernel needs beside a table of rows."""

    address: int
    rows: int
    row_bytes: int
    group_rows: int
    layers_per_group: int
    layer: LayerSpec

    def layer_offset(self, layer: int) -> int:
        """Bytes from the arena's base to the keys of row 0 in `layer`; values follow the keys."""
        group, inner = divmod(layer, self.layers_per_group)
        return group * self.group_rows * self.row_bytes + inner * self.layer.token_bytes


@dataclass(frozen=True, slots=True)
class KvTable:
    """The rows of one sequence: token t is in row `starts[t // span] + t % span`.

    A contiguous sequence has one start; a paged one has a start for each page of `span` tokens.
    """

    starts: tuple[int, ...]
    span: int

    def row(self, token: int) -> int:
        return self.starts[token // self.span] + token % self.span

    def runs(self, first: int, last: int) -> list[tuple[int, int]]:
        """Half-open row intervals that hold tokens `first` to `last` (exclusive), in order."""
        out = []
        while first < last:
            stop = min(last, (first // self.span + 1) * self.span)
            start = self.row(first)
            out.append((start, start + stop - first))
            first = stop
        return out
