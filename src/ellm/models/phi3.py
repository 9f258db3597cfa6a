"""Phi-3: Llama whose checkpoint comes with merged matrices, and with LongRoPE for long contexts."""

from __future__ import annotations

from ellm.models.config import HfConfig
from ellm.models.llama import shared
from ellm.models.spec import DecoderSpec, WeightNames

_NAMES = WeightNames(qkv=("self_attn.qkv_proj",), up=("mlp.gate_up_proj",))


def describe(config: HfConfig, max_model_len: int | None) -> DecoderSpec:
    fields = shared(config, max_model_len)
    layers = len(fields["windows"])
    window = config.optional_integer("sliding_window")
    fields["windows"] = config.windows(layers, [True] * layers, window)
    fields["max_positions"] = config.integer("max_position_embeddings", 4096)
    fields["norm_eps"] = config.number("rms_norm_eps", 1e-5)
    return DecoderSpec(family="phi3", **fields, names=_NAMES)
