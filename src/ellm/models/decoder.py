"""The one decoder: every family is a spec of it.

    tokens ─ embed ─┬─ norm ─ qkv ─ rotate ─ store ─ attend ─ out ─┬─ norm ─ up ─ act ─ down ─┬─ …
                    └───────────────── residual ───────────────────┴──────── residual ────────┘

Sequences of a step lie side by side along the first axis; only attention tells them apart.
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
class Buffers:
    """Everything a step writes but its logits.  Those of the MLP lie over those of attention.

    All have as many rows as the backend asks for, at least one for each token.
    """

    hidden: Tensor
    normed: Tensor
    temp: Temp
    cos: Tensor
    sin: Tensor
    qkv: Tensor
    attended: Tensor
    up: Tensor
    activated: Tensor


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
        hidden = scratch.take((tokens, spec.hidden_size), dtype)
        temp = self._ops.temp(scratch, self._dims, replace(shape, tokens=tokens))
        mark = scratch.mark()
        normed = scratch.take((tokens, spec.hidden_size), dtype)
        cos = scratch.take((tokens, 1, 1, half), dtype)
        sin = scratch.take((tokens, 1, 1, half), dtype)
        inner = scratch.mark()
        qkv = scratch.take((tokens, spec.qkv_width), dtype)
        attended = scratch.take((tokens, spec.query_width), dtype)
        scratch.release(inner)
        up = scratch.take((tokens, spec.up_width), dtype)
        activated = scratch.take((tokens, spec.intermediate_size), dtype)
        scratch.release(mark)
        return Buffers(hidden, normed, temp, cos, sin, qkv, attended, up, activated)

    def forward(
        self, inputs: Inputs, kv: KvPlanes, buffers: Buffers, ferry: Ferry | None = None
    ) -> None:
        """Run all layers; the residual stream [T, hidden] is left in `buffers.hidden`."""
        self._embed(inputs, buffers)
        plan = self._ops.plan_attention(kv, self.spec.windows, inputs.segments, buffers.temp)
        # What a part of a layer answered is added to the residual by the norm that follows it.
        answer: Tensor | None = None
        for index, layer in enumerate(self._weights.layers):
            self._norm(buffers.hidden, layer.attention_norm, buffers.normed, buffers.temp, answer)
            answer = buffers.normed
            if ferry is not None:
                ferry.enter(index)
            self._attention(index, layer, inputs, kv, plan, buffers)
            if ferry is not None:
                ferry.leave(index)
            self._norm(buffers.hidden, layer.mlp_norm, buffers.normed, buffers.temp, answer)
            self._mlp(layer, buffers)
        if answer is not None:
            self._ops.add(answer, buffers.hidden)

    def logits(self, rows: Tensor, buffers: Buffers, selected: Tensor, out: Tensor) -> None:
        """Vocabulary scores after the tokens in `rows`, in the first R rows of `out`.

        `out` is [padded R, vocab], `selected` [padded R, hidden].
        """
        self._ops.select(buffers.hidden, rows, selected[: len(rows)])
        self._norm(selected, self._weights.final_norm, selected, buffers.temp)
        self._ops.linear(selected, self._weights.head, None, out)

    def _embed(self, inputs: Inputs, buffers: Buffers) -> None:
        spec, ops, weights = self.spec, self._ops, self._weights
        ops.embed(weights.embed, inputs.ids, buffers.hidden)
        if spec.rope:
            scale, cos, sin = spec.rope.scale, buffers.cos, buffers.sin
            ops.angles(inputs.positions, self._frequencies, scale, cos, sin, buffers.temp)
        if weights.positions is not None:
            tokens = len(inputs.ids)
            table = weights.positions[spec.position_offset :]
            ops.select(table, inputs.positions, buffers.normed[:tokens])
            ops.add(buffers.normed[:tokens], buffers.hidden[:tokens])

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
        ops.linear(buffers.normed, layer.qkv.weight, layer.qkv.bias, qkv)
        by_head = qkv.view(-1, heads + 2 * kv_heads, width)
        queries, keys = by_head[:, :heads], by_head[:, heads : heads + kv_heads]
        if layer.query_norm is not None and layer.key_norm is not None:
            ops.rms_norm(queries, layer.query_norm, spec.norm_eps, queries, temp)
            ops.rms_norm(keys, layer.key_norm, spec.norm_eps, keys, temp)
        if spec.rope:
            ops.rotary(by_head[:, : heads + kv_heads], buffers.cos, buffers.sin, temp)
        fresh = by_head[: len(inputs.rows), heads:].view(-1, 2, kv_heads, width)
        ops.store_kv(kv.layers[index], inputs.rows, fresh)
        plan.run(index, queries, buffers.attended.view(-1, heads, width))
        out = layer.attention_out
        ops.linear(buffers.attended, out.weight, out.bias, buffers.normed)

    def _mlp(self, layer: LayerWeights, buffers: Buffers) -> None:
        spec, ops = self.spec, self._ops
        ops.linear(buffers.normed, layer.up.weight, layer.up.bias, buffers.up)
        ops.activate(spec.activation, buffers.up, spec.gated, buffers.activated)
        ops.linear(buffers.activated, layer.down.weight, layer.down.bias, buffers.normed)
