"""The time of every stage of a plan, from what a device and its links can do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ellm.core.load import StepLoad
from ellm.scheduling.coefficients import Coefficients
from ellm.sim.anatomy.cell import Split
from ellm.sim.anatomy.formats import Formats
from ellm.sim.anatomy.shard import Product, Shard
from ellm.sim.anatomy.transformer import Block, Transformer
from ellm.sim.costs.cell import attention_seconds, cell_seconds
from ellm.sim.costs.curve import sampled
from ellm.sim.costs.stage import StageTime, Window
from ellm.sim.devices.device import Device
from ellm.sim.fabrics.interconnect import Interconnect
from ellm.sim.parallel.handover import Side, handover
from ellm.sim.parallel.plan import Plan
from ellm.sim.parallel.stages import stage_blocks

# Rows of logits from which the slope is taken.
_ROWS = 64
NOTHING = Coefficients.even(0.0, 0.0, 0.0, 0.0, 0.0)


@dataclass(frozen=True, slots=True)
class Roofline:
    """A transformer on devices that are all alike."""

    transformer: Transformer
    device: Device
    formats: Formats
    links: Interconnect

    def stages(self, plan: Plan) -> tuple[StageTime, ...]:
        """One for each stage of `plan`, which must be possible."""
        whole = stage_blocks(len(self.transformer.blocks), plan.stages)
        return tuple(
            self._stage(plan, self.transformer.blocks[first:last], last) for first, last in whole
        )

    def _stage(self, plan: Plan, blocks: Sequence[Block], last: int) -> StageTime:
        ranks = plan.ranks(self.transformer)
        parts: dict[int, Coefficients] = {ranks: NOTHING, 1: NOTHING}
        windows: list[Window] = []
        for block, count in Counter(blocks).items():
            for copies, cost in self._block(plan, block):
                parts[copies] = parts.get(copies, NOTHING) + cost.times(count)
            windows += self._windows(plan, block, count)
        over, layers = self.device.overhead, len(blocks)
        host = replace(NOTHING, sequence=over.sequence, step=over.step)
        parts[ranks] += replace(host, step=over.step + over.layer * layers)
        if last == len(self.transformer.blocks):
            parts[1] += self._head(plan)
        if plan.stages > 1:
            parts[ranks] += self._onwards(plan, ranks)
        launched = replace(host, step=over.step + over.launch * layers) if over.launch else None
        costs = {copies: part for copies, part in parts.items() if part != NOTHING}
        return StageTime.of(ranks, costs, windows, launched)

    def _block(self, plan: Plan, block: Block) -> list[tuple[int, Coefficients]]:
        """Costs of a block's cells with what travels between them, by their copies."""
        sides, splits = [], []
        for cell in block:
            place = self.transformer.cells.index(cell)
            split, copies = plan.split(self.transformer, place), plan.cells[place].copies
            assert split is not None, (plan, cell)
            splits.append(split)
            sides.append(Side(copies, plan.width // copies, split.scatters))
        found = []
        for i, (split, side) in enumerate(zip(splits, sides, strict=True)):
            after, before = sides[(i + 1) % len(sides)], sides[i - 1]
            travels = [handover(side, after).behind, handover(before, side).before]
            cost = cell_seconds(split.shard, self.device, self.formats)
            cost += self._travel(side, [name for name in travels if name], split)
            found.append((side.copies, cost))
        return found

    def _travel(self, side: Side, collectives: Sequence[str], split: Split) -> Coefficients:
        """What travels around a cell, of which a copy has so many tokens."""
        width = self.transformer.hidden * self.formats.bytes

        def seconds(tokens: int) -> float:
            total = sum(self._fastest(name, side.ways, tokens * width) for name in collectives)
            for exchange in split.exchanges:
                size = tokens * exchange.numbers * self.formats.bytes / side.ways
                total += self.links.seconds(exchange.collective, side.ways, size)
            return total

        return sampled(seconds) if collectives or split.exchanges else NOTHING

    def _fastest(self, collective: str, ways: int, size: float) -> float:
        """Sums of small messages go through a kernel of the engine's own, as engines do it."""
        usual = self.links.seconds(collective, ways, size)
        if collective != "all_reduce":
            return usual
        return min(usual, self.links.seconds("captured_all_reduce", ways, size))

    def _windows(self, plan: Plan, block: Block, count: int) -> list[Window]:
        found = []
        for cell in block:
            split = plan.split(self.transformer, self.transformer.cells.index(cell))
            heads = None if split is None else split.shard.heads
            if heads is not None and heads.window is not None:
                pair, cached = attention_seconds(heads, self.device, self.formats)
                found.append(Window(heads.window, count * pair, count * cached))
        return found

    def _head(self, plan: Plan) -> Coefficients:
        """The last norm, a slice of the vocabulary on each device, and the slices together."""
        hidden, vocab = self.transformer.hidden, self.transformer.vocab_size
        shard = Shard((Product(hidden, -(-vocab // plan.width)),), moved=4 * hidden + 2 * vocab)
        plain = replace(self.formats, weights=self.formats.activations)
        cost = cell_seconds(shard, self.device, plain)
        if plan.width > 1:
            size = vocab * self.formats.bytes
            cost += sampled(lambda rows: self.links.seconds("all_gather", plan.width, rows * size))
        # It is a function of sequences, of which there are hundreds at most: a straight line.
        one, more = (cost.seconds(StepLoad(tokens=rows)) for rows in (1, _ROWS))
        return replace(NOTHING, sequence=(more - one) / (_ROWS - 1), step=one)

    def _onwards(self, plan: Plan, ranks: int) -> Coefficients:
        """A slice of the residual stream from every device to its neighbour in the next stage."""
        width = self.transformer.hidden * self.formats.bytes
        ways = plan.width // ranks

        def seconds(tokens: int) -> float:
            sent = self.links.seconds("send_recv", 2, tokens * width / ways, plan.width)
            return sent + self.links.seconds("all_gather", ways, tokens * width)

        return sampled(seconds)
