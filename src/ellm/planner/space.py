"""All plans there are for so many devices (APEX, arXiv 2411.17651, section 3.2).

    replicas    copies of the model                   any divisor of the devices
    stages      pipeline stages, uneven ones too      any divisor of what is left, up to the layers
    copies      of each distinct cell in a stage      any divisor of the stage's width
    split       how a copy is divided over devices    any that the cell itself offers

Nothing here knows which cells there are: a new one offers its own splits.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise, product
from math import gcd

from ellm.core.errors import ConfigError
from ellm.sim.anatomy.transformer import Transformer
from ellm.sim.parallel.plan import CellPlan, Plan


def device_counts(most: int, per_node: int) -> list[int]:
    """Numbers of devices to plan for: powers of two, whole nodes, and `most` itself, if such a
    number of devices fills nodes evenly.  Raises ConfigError for less than one."""
    if most < 1:
        raise ConfigError(f"--max-gpus must be at least 1, not {most}: a model needs a device")
    doubled = (1 << power for power in range(most.bit_length()))
    counts = {most, *doubled, *range(per_node, most + 1, per_node)}
    return sorted(count for count in counts if count <= per_node or count % per_node == 0)


def plans(transformer: Transformer, devices: int, per_node: int) -> Iterator[Plan]:
    """Every plan for `devices` in nodes of `per_node`, each once.

    What remembers sequences has the same number of copies everywhere, since a sequence stays with
    the device that keeps its KV.  Of two cells that follow one another the copies of one divide
    those of the other, so that a token's way is clear.  All copies have no common divisor: with
    one, the stage would fall into parts that have nothing to do with each other, which is what
    replicas are.
    """
    layers = len(transformer.blocks)
    for replicas in divisors(devices):
        for stages in divisors(devices // replicas):
            width = devices // (replicas * stages)
            if stages <= layers and _fits_nodes(width, devices, per_node):
                for cells in cell_plans(transformer, width):
                    yield Plan(replicas, stages, width, cells)


def cell_plans(transformer: Transformer, width: int) -> Iterator[tuple[CellPlan, ...]]:
    """All ways to divide the cells of a stage over `width` devices."""
    cells, neighbours = transformer.cells, _neighbours(transformer)
    choices = [
        [
            CellPlan(copies, split.name)
            for copies in divisors(width)
            for split in cell.splits(width // copies)
        ]
        for cell in cells
    ]
    for chosen in product(*choices):
        copies = [plan.copies for plan in chosen]
        remembering = {
            plan.copies for cell, plan in zip(cells, chosen, strict=True) if cell.remembers
        }
        if len(remembering) <= 1 and gcd(*copies) == 1 and _divide(copies, neighbours):
            yield chosen


def divisors(number: int) -> list[int]:
    """From 1 up."""
    return [each for each in range(1, number + 1) if number % each == 0]


def _fits_nodes(width: int, devices: int, per_node: int) -> bool:
    """Whether stages of this width each have a part of one node, or whole nodes."""
    return devices <= per_node or per_node % width == 0 or width % per_node == 0


def _neighbours(transformer: Transformer) -> set[tuple[int, int]]:
    """Places in `cells` of those that hand tokens to one another."""
    place = {cell: number for number, cell in enumerate(transformer.cells)}
    way = [place[cell] for block in transformer.blocks for cell in block]
    # The last cell of a block hands its tokens to the first of the next, which is mostly alike.
    ends = [(place[block[-1]], place[block[0]]) for block in transformer.kinds]
    return {*pairwise(way), *ends}


def _divide(copies: Sequence[int], neighbours: set[tuple[int, int]]) -> bool:
    return all(
        copies[one] % copies[other] == 0 or copies[other] % copies[one] == 0
        for one, other in neighbours
    )
