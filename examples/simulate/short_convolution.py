"""A cell of one's own: the gated short convolution of LFM2, which keeps two tokens and no cache.

    ellm simulate --model examples/simulate/lfm2-1.2b.json \
        --extension examples/simulate/short_convolution.py --device L4 --lengths sharegpt --rate 10
"""

from __future__ import annotations

from dataclasses import dataclass

from ellm.models.config import HfConfig
from ellm.sim.anatomy.cell import Cell, Split
from ellm.sim.anatomy.reader import mixer
from ellm.sim.anatomy.shard import Product, Shard


@dataclass(frozen=True, slots=True)
class ShortConvolution:
    """Two gates and a value from one product, a convolution over `reach` tokens, and a product."""

    hidden: int
    reach: int

    name = "convolution"
    remembers = True  # the last tokens of each sequence, on the device that computed them

    @property
    def tasks(self) -> int:
        return self.hidden

    def splits(self, devices: int) -> tuple[Split, ...]:
        if self.hidden % devices:
            return ()
        width = self.hidden // devices
        shard = Shard(
            products=(Product(self.hidden, 3 * width), Product(width, self.hidden)),
            small=self.hidden + self.reach * width,
            moved=4 * self.hidden + 6 * width,
            live=4 * width,
            state=(self.reach - 1) * width,
        )
        return (Split("tensor", shard),)


@mixer
def read(config: HfConfig, layer: int) -> Cell | None:
    """A convolution where `layer_types` says so; other layers are left to other readers."""
    kinds = config.names("layer_types")
    if not kinds or kinds[layer] != "conv":
        return None
    return ShortConvolution(config.integer("hidden_size"), config.integer("conv_L_cache"))
