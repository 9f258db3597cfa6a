"""What one device of a plan must hold: the accounts that the engine keeps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ellm.core.layers import LayerSpec
from ellm.sim.activations import Activations
from ellm.sim.anatomy.formats import Formats
from ellm.sim.anatomy.shard import Shard
from ellm.sim.anatomy.transformer import Block, Transformer
from ellm.sim.parallel.plan import Plan
from ellm.sim.parallel.stages import stage_blocks

# Token ids, positions and rows in int64 (runtime/batch.py).
INDEX_BYTES = 24


@dataclass(frozen=True, slots=True)
class Footprint:
    """Of the fullest device.

    `layers` keep KV there, `state_bytes` more are kept for each sequence however long it is.
    """

    weight_bytes: int
    layers: tuple[LayerSpec, ...]
    state_bytes: int
    activations: Activations

    @property
    def token_bytes(self) -> int:
        """KV of one token."""
        return sum(layer.token_bytes for layer in self.layers)

    @classmethod
    def of(cls, transformer: Transformer, plan: Plan, formats: Formats) -> Footprint:
        """Every device of a stage holds as much; the fullest stage counts."""
        stages = [
            _Stage(transformer, plan, formats, transformer.blocks[first:last], first)
            for first, last in stage_blocks(len(transformer.blocks), plan.stages)
        ]
        layers = max((stage.layers for stage in stages), key=len)
        return cls(
            weight_bytes=max(stage.weight_bytes for stage in stages),
            layers=layers,
            state_bytes=max(stage.state_bytes for stage in stages),
            activations=_activations(transformer, plan, formats),
        )


class _Stage:
    def __init__(
        self,
        transformer: Transformer,
        plan: Plan,
        formats: Formats,
        blocks: Sequence[Block],
        first: int,
    ) -> None:
        of = {block: _shards(transformer, plan, block) for block in set(blocks)}
        shards = [shard for block in blocks for shard in of[block]]
        bytes_of = {shard: _weights(shard, formats) for shard in set(shards)}
        weights = sum(bytes_of[shard] for shard in shards)
        ends = (first == 0, first + len(blocks) == len(transformer.blocks))
        tables = transformer.table_parameters(plan.width, *ends)
        self.weight_bytes = math.ceil(weights + tables * formats.bytes)
        self.state_bytes = sum(shard.state for shard in shards) * formats.bytes
        self.layers = tuple(
            LayerSpec(h.kv_heads, h.stored_dim, formats.kv_bytes, h.window)
            for h in (shard.heads for shard in shards)
            if h is not None
        )


def _shards(transformer: Transformer, plan: Plan, block: Block) -> list[Shard]:
    found = []
    for cell in block:
        split = plan.split(transformer, transformer.cells.index(cell))
        assert split is not None, (plan, cell)
        found.append(split.shard)
    return found


def _weights(shard: Shard, formats: Formats) -> float:
    products = sum(product.parameters for product in shard.products)
    return products * formats.weight_bytes + shard.small * formats.bytes


def _activations(transformer: Transformer, plan: Plan, formats: Formats) -> Activations:
    """By models/decoder.py: a step's rows, and again those whose logits are wanted."""
    ranks = plan.ranks(transformer)
    widest = kept = 0.0
    for place, cell_plan in enumerate(plan.cells):
        split = plan.split(transformer, place)
        assert split is not None, (plan, place)
        # A copy that serves several ranks has the tokens of them all.
        widest = max(widest, split.shard.live * max(1.0, ranks / cell_plan.copies))
        if (heads := split.shard.heads) is not None:
            kept = max(kept, heads.queries * heads.value_dim)
    stream = 2 * transformer.hidden
    token = math.ceil((stream + widest) * formats.bytes) + INDEX_BYTES
    row = math.ceil((stream + widest + transformer.vocab_size) * formats.bytes) + 8
    left = math.ceil((stream + kept) * formats.bytes) + INDEX_BYTES
    # A draw takes a line of the vocabulary in float32, and so does each of its threads.
    return Activations(token, row, 12 * transformer.vocab_size, left)
