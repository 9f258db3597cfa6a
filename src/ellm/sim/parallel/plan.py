"""How a model is divided (APEX, arXiv 2411.17651, section 3.2).

replicas      copies of the whole model; each serves its own requests
  stages      parts of its layers, one after the other
    copies    of a cell within a stage; each for its own requests (attention) or tokens
      shares  of a copy, one a device: heads, filters or experts
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ellm.core.errors import ConfigError
from ellm.sim.anatomy.cell import Cell, Split
from ellm.sim.anatomy.transformer import Transformer


@dataclass(frozen=True, slots=True)
class CellPlan:
    """`copies` of the cell in each stage, each divided as the split called `split` does it."""

    copies: int = 1
    split: str = "tensor"


@dataclass(frozen=True, slots=True)
class Plan:
    """`width` devices a stage; `cells` has a plan for each of the transformer's distinct cells, by
    place in `Transformer.cells`."""

    replicas: int
    stages: int
    width: int
    cells: tuple[CellPlan, ...]

    @property
    def devices(self) -> int:
        return self.replicas * self.stages * self.width

    def split(self, transformer: Transformer, place: int) -> Split | None:
        """How the cell at that place is divided; None if it cannot be."""
        plan = self.cells[place]
        if self.width % plan.copies:
            return None
        splits = transformer.cells[place].splits(self.width // plan.copies)
        return next((split for split in splits if split.name == plan.split), None)

    def ranks(self, transformer: Transformer) -> int:
        """How many sets of sequences a stage works on at once: copies of what remembers them."""
        pairs = zip(transformer.cells, self.cells, strict=True)
        return next((plan.copies for cell, plan in pairs if cell.remembers), 1)

    def describe(self, transformer: Transformer) -> str:
        """As people write it: 2 replicas × 2 stages × (attention 2 × TP4, experts EP8)."""
        parts = {}
        for cell, plan in zip(transformer.cells, self.cells, strict=True):
            ways = self.width // plan.copies
            kind = {"tensor": "TP", "expert": "EP"}.get(plan.split, plan.split + " ")
            parts[cell.name] = (f"{plan.copies}x" if plan.copies > 1 else "") + f"{kind}{ways}"
        same = set(parts.values())
        inner = same.pop() if len(same) == 1 else ", ".join(f"{k} {v}" for k, v in parts.items())
        outer = [f"DP{self.replicas}"] * (self.replicas > 1) + [f"PP{self.stages}"] * (
            self.stages > 1
        )
        if not outer:
            return inner
        return " x ".join([*outer, inner if len(parts) == 1 or ", " not in inner else f"({inner})"])


def uniform(
    transformer: Transformer,
    replicas: int = 1,
    stages: int = 1,
    tensor: int = 1,
    expert_parallel: bool = False,
) -> Plan:
    """Every cell divided over the same `tensor` devices, as serving engines are told to.

    Raises ConfigError where that does not go.
    """
    for name, value in (("data", replicas), ("pipeline", stages), ("tensor", tensor)):
        if value < 1:
            raise ConfigError(f"--{name}-parallel-size must be at least 1, not {value}")
    if stages > len(transformer.blocks):
        raise ConfigError(
            f"--pipeline-parallel-size {stages} is more than the {len(transformer.blocks)} layers"
        )
    cells = tuple(CellPlan(1, _chosen(cell, tensor, expert_parallel)) for cell in transformer.cells)
    return Plan(replicas, stages, tensor, cells)


def _chosen(cell: Cell, ways: int, expert_parallel: bool) -> str:
    splits: Mapping[str, Split] = {split.name: split for split in cell.splits(ways)}
    if not splits:
        raise ConfigError(
            f"--tensor-parallel-size {ways} does not divide the {cell.tasks} pieces of "
            f"{cell.name}: take a divisor"
        )
    return "expert" if expert_parallel and "expert" in splits else next(iter(splits))
