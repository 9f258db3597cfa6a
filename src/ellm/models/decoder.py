"""The one decoder: every family is a spec of it.

    tokens ─ embed ─┬─ norm ─ qkv ─ rotate ─ store ─ attend ─ out ─┬─ norm ─ up ─ act ─ down ─┬─ …
                    └───────────────── residual ───────────────────┴──────── residual ────────┘

Sequences of a step lie side by side along the first axis; only attention tells them apart.  What
comes after the last layer's attention is computed for the rows whose logits are wanted, and only
for them: of a prompt, that is one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ellm.core.executor import Ferry
from ellm.core.plan import StepShape
from ellm.kernels.ops import AttentionPlan, Dims, KvPlanes, Ops, Segment, Temp
from ellm.kernels.scratch import Scratch
from ellm.models.spec import DecoderSpec
from ellm.models.weights import Affine, LayerWeights, Weights


@dataclass(frozen=True, slots=True)
class Inputs:
    """What a step computes: int64 tensors [T], and which rows belong to which sequence."""

    ids: Tensor
    positions: Tensor
    rows: Tensor
    segments: Sequence[Segment]


@dataclass(frozen=True, slots=True)
class Rows:
    """What a layer writes for each of so many rows, but for its queries, keys and values."""

    hidden: Tensor
    normed: Tensor
    attended: Tensor
    up: Tensor
    activated: Tensor


@dataclass(frozen=True, slots=True)
class Buffers:
    """Everything a step writes but its logits.  Those of the MLP lie over those of attention.

    All have as many rows as the backend asks for, at least one for each token.
    """

    rows: Rows
    temp: Temp
    cos: Tensor
    sin: Tensor
    qkv: Tensor


class Decoder:
    """Weights and the ops to run them.  Holds no state of any step."""

    def __init__(self, spec: DecoderSpec, weights: Weights, ops: Ops) -> None:
        self.spec = spec
        self._weights = weights
        self._ops = ops
        self.dtype = weights.embed.dtype
        frequencies = spec.rope.inverse_frequencies if spec.rope else ()
        self._frequencies = torch.tensor(
            frequencies, dtype=torch.float32, device=weights.embed.device
        )
        self._dims = Dims(
            hidden=spec.hidden_size,
            heads=spec.num_heads,
            kv_heads=spec.num_kv_heads,
            head_dim=spec.head_dim,
            rotary_dim=spec.rope.dim if spec.rope else 0,
            windows=tuple(dict.fromkeys(spec.windows)),
            dtype=self.dtype,
        )

    def take(self, scratch: Scratch, shape: StepShape) -> Buffers:
        """Room for a step; on return only what `logits` needs is still on the stack.

        The rest stays valid until something else is taken.
        """
        spec, dtype, tokens = self.spec, self.dtype, self._ops.padded(shape.tokens)
        half = self._dims.rotary_dim // 2
        temp = self._ops.temp(scratch, self._dims, replace(shape, tokens=tokens))
        cos = scratch.take((tokens, 1, 1, half), dtype)
        sin = scratch.take((tokens, 1, 1, half), dtype)
        rows = self.take_rows(scratch, tokens)
        mark = scratch.mark()
        qkv = scratch.take((tokens, spec.qkv_width), dtype)
        scratch.release(mark)
        return Buffers(rows, temp, cos, sin, qkv)

    def take_rows(self, scratch: Scratch, rows: int) -> Rows:
        """Room for so many rows, padded already: of a step, or of the `last` of `logits`.

        The residual stream and what attention answers stay on the stack.
        """
        spec, dtype = self.spec, self.dtype
        hidden = scratch.take((rows, spec.hidden_size), dtype)
        normed = scratch.take((rows, spec.hidden_size), dtype)
        inner = scratch.mark()
        up = scratch.take((rows, spec.up_width), dtype)
        activated = scratch.take((rows, spec.intermediate_size), dtype)
        scratch.release(inner)
        attended = scratch.take((rows, spec.query_width), dtype)
        return Rows(hidden, normed, attended, up, activated)

    def forward(
        self, inputs: Inputs, kv: KvPlanes, buffers: Buffers, ferry: Ferry | None = None
    ) -> None:
        """Run all layers as far as the last one's attention; `logits` does the rest."""
        self._embed(inputs, buffers)
        plan = self._ops.plan_attention(kv, self.spec.windows, inputs.segments, buffers.temp)
        rows, temp = buffers.rows, buffers.temp
        layers = self._weights.layers
        for index, layer in enumerate(layers):
            if index:
                self._after_attention(layers[index - 1], rows, temp)
            # A layer's answer is added to the residual by the norm that follows it.
            answer = rows.normed if index else None
            self._norm(rows.hidden, layer.attention_norm, rows.normed, temp, answer)
            if ferry is not None:
                ferry.enter(index)
            self._attention(index, layer, inputs, kv, plan, buffers)
            if ferry is not None:
                ferry.leave(index)

    def logits(self, wanted: Tensor, buffers: Buffers, last: Rows, out: Tensor) -> None:
        """Vocabulary scores after the tokens in rows `wanted`, in the first R rows of `out`.

        `out` is [padded R, vocab], `last` has as many rows.
        """
        ops, temp, count = self._ops, buffers.temp, len(wanted)
        ops.select(buffers.rows.hidden, wanted, last.hidden[:count])
        ops.select(buffers.rows.attended, wanted, last.attended[:count])
        self._after_attention(self._weights.layers[-1], last, temp)
        self._norm(last.hidden, self._weights.final_norm, last.normed, temp, last.normed)
        ops.linear(last.normed, self._weights.head, None, out)

    def _embed(self, inputs: Inputs, buffers: Buffers) -> None:
        spec, ops, weights = self.spec, self._ops, self._weights
        ops.embed(weights.embed, inputs.ids, buffers.rows.hidden)
        if spec.rope:
            scale, cos, sin = spec.rope.scale, buffers.cos, buffers.sin
            ops.angles(inputs.positions, self._frequencies, scale, cos, sin, buffers.temp)
        if weights.positions is not None:
            tokens = len(inputs.ids)
            table = weights.positions[spec.position_offset :]
            normed, hidden = buffers.rows.normed[:tokens], buffers.rows.hidden[:tokens]
            ops.select(table, inputs.positions, normed)
            ops.add(normed, hidden)

    def _norm(
        self, x: Tensor, norm: Affine, out: Tensor, temp: Temp, added: Tensor | None = None
    ) -> None:
        eps = self.spec.norm_eps
        if norm.bias is None:
            self._ops.rms_norm(x, norm.weight, eps, out, temp, added)
        else:
            self._ops.layer_norm(x, norm.weight, norm.bias, eps, out, temp, added)

    def _attention(
        self,
        index: int,
        layer: LayerWeights,
        inputs: Inputs,
        kv: KvPlanes,
        plan: AttentionPlan,
        buffers: Buffers,
    ) -> None:
        spec, ops, qkv, temp = self.spec, self._ops, buffers.qkv, buffers.temp
        heads, kv_heads, width = spec.num_heads, spec.num_kv_heads, spec.head_dim
        ops.linear(buffers.rows.normed, layer.qkv.weight, layer.qkv.bias, qkv)
        by_head = qkv.view(-1, heads + 2 * kv_heads, width)
        queries, keys = by_head[:, :heads], by_head[:, heads : heads + kv_heads]
        if layer.query_norm is not None and layer.key_norm is not None:
            ops.rms_norm(queries, layer.query_norm, spec.norm_eps, queries, temp)
            ops.rms_norm(keys, layer.key_norm, spec.norm_eps, keys, temp)
        turn = (buffers.cos, buffers.sin) if spec.rope else None
        ops.store_kv(kv.layers[index], inputs.rows, by_head, temp, turn)
        plan.run(index, queries, buffers.rows.attended.view(-1, heads, width))

    def _after_attention(self, layer: LayerWeights, rows: Rows, temp: Temp) -> None:
        """From what attention gave to the layer's answer, which is left in `rows.normed`."""
        spec, ops, out = self.spec, self._ops, layer.attention_out
        ops.linear(rows.attended, out.weight, out.bias, rows.normed)
        self._norm(rows.hidden, layer.mlp_norm, rows.normed, temp, rows.normed)
        ops.linear(rows.normed, layer.up.weight, layer.up.bias, rows.up)
        ops.activate(spec.activation, rows.up, spec.gated, rows.activated)
        ops.linear(rows.activated, layer.down.weight, layer.down.bias, rows.normed)
