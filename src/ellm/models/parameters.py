"""Every weight matrix a decoder keeps, and the checkpoint tensors it is put together from."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from ellm.models.spec import DecoderSpec, Norm

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Source:
    """A checkpoint tensor, and the first row of the parameter that it fills."""

    name: str
    shape: Shape
    row: int = 0


@dataclass(frozen=True, slots=True)
class Parameter:
    """`name` is ours ("layers.0.qkv.weight"); the sources fill all rows, in order."""

    name: str
    shape: Shape
    sources: tuple[Source, ...]

    @property
    def numel(self) -> int:
        return prod(self.shape)


def parameters(spec: DecoderSpec) -> tuple[Parameter, ...]:
    """In the order in which a step reads them.  A tied head is not there: it is the embedding."""
    names, hidden = spec.names, spec.hidden_size
    found = [_one("embed.weight", names.embed + ".weight", (spec.vocab_size, hidden))]
    if spec.positions:
        assert names.positions is not None
        found.append(
            _one("positions.weight", names.positions + ".weight", (spec.positions, hidden))
        )
    for layer in range(spec.num_layers):
        found += _layer(spec, layer)
    found += _norm(spec, "final_norm", names.final_norm, hidden)
    if not spec.tied:
        found.append(_one("head.weight", names.head + ".weight", (spec.vocab_size, hidden)))
    return tuple(found)


def _layer(spec: DecoderSpec, layer: int) -> list[Parameter]:
    names, hidden = spec.names, spec.hidden_size
    ours, theirs = f"layers.{layer}.", f"{names.layer}.{layer}."
    qkv = (spec.query_width, spec.kv_width, spec.kv_width)
    up = (spec.intermediate_size,) * (2 if spec.gated else 1)
    found = _norm(spec, ours + "attention_norm", theirs + names.attention_norm, hidden)
    found += _linear(ours + "qkv", theirs, names.qkv, qkv, hidden, spec.qkv_bias)
    if spec.qk_norm:
        for name, source in (("query_norm", names.query_norm), ("key_norm", names.key_norm)):
            found.append(_one(f"{ours}{name}.weight", f"{theirs}{source}.weight", (spec.head_dim,)))
    found += _linear(
        ours + "attention_out",
        theirs,
        (names.attention_out,),
        (hidden,),
        spec.query_width,
        spec.attention_out_bias,
    )
    found += _norm(spec, ours + "mlp_norm", theirs + names.mlp_norm, hidden)
    found += _linear(ours + "up", theirs, names.up, up, hidden, spec.mlp_bias)
    found += _linear(
        ours + "down", theirs, (names.down,), (hidden,), spec.intermediate_size, spec.mlp_bias
    )
    return found


def _one(name: str, source: str, shape: Shape) -> Parameter:
    return Parameter(name, shape, (Source(source, shape),))


def _norm(spec: DecoderSpec, name: str, source: str, width: int) -> list[Parameter]:
    kinds = ("weight", "bias") if spec.norm is Norm.LAYER else ("weight",)
    return [_one(f"{name}.{kind}", f"{source}.{kind}", (width,)) for kind in kinds]


def _linear(
    name: str,
    prefix: str,
    sources: tuple[str, ...],
    rows: tuple[int, ...],
    inputs: int,
    bias: bool,
) -> list[Parameter]:
    """One matrix of sum(rows) outputs, and its bias.  A single source is merged already."""
    if len(sources) == 1:
        rows = (sum(rows),)
    firsts = [sum(rows[:index]) for index in range(len(rows))]
    found = []
    for kind, tail in (("weight", (inputs,)), ("bias", ())) if bias else (("weight", (inputs,)),):
        parts = tuple(
            Source(f"{prefix}{source}.{kind}", (count, *tail), first)
            for source, count, first in zip(sources, rows, firsts, strict=True)
        )
        found.append(Parameter(f"{name}.{kind}", (sum(rows), *tail), parts))
    return found
