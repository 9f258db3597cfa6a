"""A cell that names a collective of one's own: an MLP whose tokens go around a ring.

    ellm simulate --model llama-3.1-8b --device H100 --tensor-parallel-size 4 --lengths sharegpt \
        --extension examples/simulate/ring_broadcast.py --extension examples/simulate/ring_mlp.py
"""

from __future__ import annotations

from dataclasses import dataclass

from ellm.models.config import HfConfig
from ellm.sim.anatomy.cell import Cell, Exchange, Split
from ellm.sim.anatomy.cells.mlp import Mlp
from ellm.sim.anatomy.reader import channel


@dataclass(frozen=True, slots=True)
class RingMlp:
    """Devices have slices of the filters, and each some of the tokens before and after."""

    slices: Mlp

    name = "mlp"
    remembers = False

    @property
    def tasks(self) -> int:
        return self.slices.tasks

    def splits(self, devices: int) -> tuple[Split, ...]:
        (tensor,) = self.slices.splits(devices)
        if devices == 1:
            return (tensor,)
        # The tokens of all devices go to each of them, and the partial sums back to whose they are.
        numbers = float(devices * self.slices.hidden)
        exchanges = (Exchange("ring_broadcast", numbers), Exchange("reduce_scatter", numbers))
        return (Split("ring", tensor.shard, exchanges),)


@channel
def read(config: HfConfig, layer: int) -> Cell | None:
    """Every gated MLP; models with experts are left to other readers."""
    if "intermediate_size" not in config or "num_experts_per_tok" in config:
        return None
    hidden = config.integer("hidden_size")
    return RingMlp(Mlp(hidden, config.integer("intermediate_size"), norms=hidden))
