"""A whole model: an embedding, blocks of cells, a head (APEX, arXiv 2411.17651, section 3.1)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from ellm.core.layers import LayerSpec
from ellm.core.units import ceil_div
from ellm.sim.anatomy.cell import Cell, Split

Block = tuple[Cell, ...]


@dataclass(frozen=True)
class Transformer:
    """`positions` rows of a learned position table, 0 for none.  `final` are the last norm's
    parameters.  A `tied` head reads the embedding."""

    name: str
    hidden: int
    vocab_size: int
    blocks: tuple[Block, ...]
    max_positions: int
    tied: bool = False
    positions: int = 0
    final: int = 0
    dtype: str | None = None

    @cached_property
    def kinds(self) -> Mapping[Block, int]:
        """How many there are of each distinct block."""
        return Counter(self.blocks)

    @cached_property
    def cells(self) -> tuple[Cell, ...]:
        """The distinct cells, in the order in which a token meets them first."""
        return tuple(dict.fromkeys(cell for block in self.kinds for cell in block))

    def table_parameters(self, devices: int = 1, first: bool = True, last: bool = True) -> int:
        """Embedding and positions (of the `first` stage), norm and head (of the `last`) on one of
        so many devices, a slice of the vocabulary each."""
        rows = first + last
        if self.tied and rows == 2:
            rows = 1
        table = ceil_div(self.vocab_size, devices) * self.hidden
        return rows * table + first * self.positions * self.hidden + last * self.final

    @property
    def parameters(self) -> int:
        """Of the whole model, on one device."""
        blocks = sum(
            count * sum(whole(cell).shard.parameters for cell in block)
            for block, count in self.kinds.items()
        )
        return blocks + self.table_parameters()

    def layers(self, itemsize: int) -> tuple[LayerSpec, ...]:
        """What each cell with a cache keeps of a token on one device, in numbers of `itemsize`
        bytes."""
        found = []
        for block in self.blocks:
            for cell in block:
                heads = whole(cell).shard.heads
                if heads is not None:
                    found.append(
                        LayerSpec(heads.kv_heads, heads.stored_dim, itemsize, heads.window)
                    )
        return tuple(found)


def whole(cell: Cell) -> Split:
    """The cell on a single device."""
    return cell.splits(1)[0]
