"""A decoder's weights, by the place where a step reads them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor

from ellm.models.spec import DecoderSpec


@dataclass(frozen=True, slots=True)
class Affine:
    """A matrix [out, in] or a norm's scale [width], and its bias if it has one."""

    weight: Tensor
    bias: Tensor | None


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """`qkv` and a gated `up` are merged, in that order, along their outputs."""

    attention_norm: Affine
    qkv: Affine
    query_norm: Tensor | None
    key_norm: Tensor | None
    attention_out: Affine
    mlp_norm: Affine
    up: Affine
    down: Affine


@dataclass(frozen=True, slots=True)
class Weights:
    """`head` is [vocab, hidden]; a tied one is `embed` itself."""

    embed: Tensor
    positions: Tensor | None
    layers: tuple[LayerWeights, ...]
    final_norm: Affine
    head: Tensor

    def matrices(self) -> Iterator[Tensor]:
        """Everything that is multiplied by, each once: what a backend packs."""
        yield self.embed
        for layer in self.layers:
            for affine in (layer.qkv, layer.attention_out, layer.up, layer.down):
                yield affine.weight
        if self.head is not self.embed:
            yield self.head


def assemble(spec: DecoderSpec, tensors: Mapping[str, Tensor]) -> Weights:
    """Group tensors named as in `parameters(spec)`."""

    def affine(name: str) -> Affine:
        return Affine(tensors[f"{name}.weight"], tensors.get(f"{name}.bias"))

    layers = []
    for index in range(spec.num_layers):
        prefix = f"layers.{index}."
        layers.append(
            LayerWeights(
                attention_norm=affine(prefix + "attention_norm"),
                qkv=affine(prefix + "qkv"),
                query_norm=tensors.get(prefix + "query_norm.weight"),
                key_norm=tensors.get(prefix + "key_norm.weight"),
                attention_out=affine(prefix + "attention_out"),
                mlp_norm=affine(prefix + "mlp_norm"),
                up=affine(prefix + "up"),
                down=affine(prefix + "down"),
            )
        )
    embed = tensors["embed.weight"]
    return Weights(
        embed=embed,
        positions=tensors.get("positions.weight"),
        layers=tuple(layers),
        final_norm=affine("final_norm"),
        head=embed if spec.tied else tensors["head.weight"],
    )
