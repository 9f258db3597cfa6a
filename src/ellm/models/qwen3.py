"""Qwen3: Qwen2 without its biases, with an RMS norm on every query and key head."""

from __future__ import annotations

from ellm.models.config import HfConfig
from ellm.models.llama import shared
from ellm.models.qwen2 import windows
from ellm.models.spec import DecoderSpec


def describe(config: HfConfig, max_model_len: int | None) -> DecoderSpec:
    fields = shared(config, max_model_len)
    fields["head_dim"] = config.integer("head_dim", 128)
    fields["windows"] = windows(config, len(fields["windows"]))
    fields["max_positions"] = config.integer("max_position_embeddings", 32768)
    bias = config.flag("attention_bias", False)
    return DecoderSpec(
        family="qwen3", **fields, qk_norm=True, qkv_bias=bias, attention_out_bias=bias
    )
