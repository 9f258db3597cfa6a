"""The room a step takes beside its KV where native kernels compute it, to the byte.

models/decoder.py and runtime/runner.py take tensors from a stack, kernels/cpu/ops.py what each
thread needs; this takes the same sizes in the same order, and a test compares them.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ellm.core.plan import StepShape
from ellm.core.sampling import MAX_LOGPROBS
from ellm.core.units import round_up
from ellm.sim.activations import ALIGNMENT, LOGIT_BLOCK, height
from ellm.sim.anatomy.cells.attention import Attention
from ellm.sim.anatomy.cells.mlp import Mlp
from ellm.sim.anatomy.transformer import Transformer

# native/attention_room.h: tokens in a tile and in a split, rows in a block, columns are padded to.
_TILE, _SPLIT, _BLOCK, _NARROWEST = 64, 1024, 48, 16
# runtime/sampler.py: rows that are reported at once.
_REPORTED_ROWS = 16
_INDEX = 8


@dataclass(frozen=True, slots=True)
class NativeRoom:
    """`itemsize` bytes a number, so many compute `threads`."""

    attention: Attention
    mlp: Mlp
    vocab_size: int
    itemsize: int
    threads: int
    _known: dict[StepShape, int] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(cls, transformer: Transformer, itemsize: int, threads: int) -> NativeRoom | None:
        """None for a model of other parts than the engine has kernels for."""
        kinds = {
            tuple(cell for cell in block if isinstance(cell, Attention | Mlp))
            for block in transformer.blocks
        }
        # Layers that differ in what they see take the same room.
        first = transformer.blocks[0]
        if len(first) != 2 or {len(kind) for kind in kinds} != {2}:
            return None
        attention, mlp = first
        if not isinstance(attention, Attention) or not isinstance(mlp, Mlp):
            return None
        return cls(attention, mlp, transformer.vocab_size, itemsize, threads)

    def __call__(self, shape: StepShape) -> int:
        rows = min(shape.logit_rows, LOGIT_BLOCK)
        key = StepShape(height(shape.tokens), height(rows), longest_kv=height(shape.longest_kv))
        found = self._known.get(key)
        if found is None:
            found = self._known[key] = self._bytes(key.tokens, key.logit_rows, key.longest_kv)
        return found

    def _bytes(self, tokens: int, rows: int, longest_kv: int) -> int:
        half = self.attention.rotary_dim // 2
        before = _aligned(3 * tokens * _INDEX) + _aligned(self._attention_room(longest_kv))
        before += 2 * _aligned(tokens * half * self.itemsize)
        stream, inner = self._rows(tokens)
        heads, kv_heads = self.attention.heads, self.attention.kv_heads
        qkv = tokens * (heads + 2 * kv_heads) * self.attention.head_dim * self.itemsize
        peak = before + max(inner, stream + _aligned(qkv))
        if not rows:
            return peak
        before += stream + _aligned(rows * _INDEX)
        stream, inner = self._rows(rows)
        after = stream + _aligned(rows * self.vocab_size * self.itemsize) + self._sampler(rows)
        return max(peak, before + inner, before + after)

    def _rows(self, rows: int) -> tuple[int, int]:
        """What a layer's rows leave on the stack, and how high it was meanwhile."""
        size = self.itemsize
        stream = 2 * _aligned(rows * self.attention.hidden * size)
        up = self.mlp.filters * (2 if self.mlp.gated else 1)
        inner = _aligned(rows * up * size) + _aligned(rows * self.mlp.filters * size)
        attended = _aligned(rows * self.attention.heads * self.attention.head_dim * size)
        return stream + attended, stream + max(inner, attended)

    def _sampler(self, rows: int) -> int:
        vocab = self.vocab_size
        top = min(MAX_LOGPROBS, vocab)
        reported = min(rows, _REPORTED_ROWS) * (1 + top)
        line = round_up(max(4 * vocab, 8 * top), 64)
        places = (4 * vocab, 8 * rows, 4 * reported, 8 * reported, self.threads * line)
        return sum(map(_aligned, places))

    def _attention_room(self, longest_kv: int) -> int:
        """native/attention_room.h, and `ellm_attention_room` in native/interface.cpp."""
        kv_heads, width = self.attention.kv_heads, self.attention.head_dim
        group = self.attention.heads // kv_heads
        rows, padded = max(kv_heads * group, _BLOCK), round_up(width, _NARROWEST)

        def state(count: int) -> int:
            return round_up(count * (2 + padded) * 4, 64)

        thread = round_up(rows * width * 4, 64) + 2 * _TILE * padded * 4 + rows * _TILE * 4
        thread += 2 * state(rows)
        splits = longest_kv // _SPLIT + 1
        between = kv_heads * splits * state(group) if self.threads > 1 else 0
        return self.threads * thread + between


def _aligned(size: int) -> int:
    return round_up(size, ALIGNMENT)
