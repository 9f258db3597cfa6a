"""A mixture of experts: every token passes a few of many small MLPs, and perhaps a shared one."""

from __future__ import annotations

from dataclasses import dataclass

from ellm.core.units import ceil_div
from ellm.sim.anatomy.cell import Exchange, Split
from ellm.sim.anatomy.shard import Product, Shard


@dataclass(frozen=True, slots=True)
class Experts:
    """`chosen` of `count` gated MLPs of `filters` each, beside `shared` filters that all pass.

    Divided as tensors, every device has a slice of every expert; divided as experts, whole ones,
    and tokens travel to theirs and back (GShard, arXiv 2006.16668).
    """

    hidden: int
    count: int
    chosen: int
    filters: int
    shared: int = 0

    name = "experts"
    remembers = False

    @property
    def tasks(self) -> int:
        return self.count * self.filters

    def splits(self, devices: int) -> tuple[Split, ...]:
        sliced = self._shard(
            self.count,
            float(self.chosen),
            ceil_div(self.filters, devices),
            ceil_div(self.shared, devices),
        )
        if devices == 1 or self.count % devices:
            return (Split("tensor", sliced),)
        # A device has 1/devices of the experts and, when they are chosen evenly, of the tokens'
        # visits.  The shared filters are whole everywhere, for the tokens that lie here.
        whole = self._shard(
            self.count // devices, self.chosen / devices, self.filters, self.shared, devices
        )
        # A token goes to at most as many devices as there are.
        visits = float(self.hidden * min(self.chosen, devices))
        there_and_back = (Exchange("all_to_all", visits),) * 2
        return (Split("tensor", sliced), Split("expert", whole, there_and_back))

    def _shard(self, count: int, used: float, filters: int, shared: int, spread: int = 1) -> Shard:
        """With `spread`, tokens of all that many devices are counted, and each has its share."""
        products = [
            Product(self.hidden, self.count, used=1 / spread),
            Product(self.hidden, 2 * filters, count, used),
            Product(filters, self.hidden, count, used),
        ]
        if shared:
            products += [
                Product(self.hidden, 2 * shared, used=1 / spread),
                Product(shared, self.hidden, used=1 / spread),
            ]
        wide = max(1, round(used)) * 3 * filters + 3 * shared
        return Shard(
            products=tuple(products),
            small=self.hidden,
            moved=4 * self.hidden + wide + round(2 * self.hidden * used),
            live=wide + self.hidden * max(1, round(used)),
        )
