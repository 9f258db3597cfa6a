"""Qwen2 and Qwen2.5: Llama with biases on queries, keys and values, windows on upper layers."""

from __future__ import annotations

from ellm.models.config import HfConfig
from ellm.models.llama import shared
from ellm.models.spec import DecoderSpec


def windows(config: HfConfig, layers: int) -> tuple[int | None, ...]:
    """Layers from `max_window_layers` up slide, if the config switches sliding on at all."""
    if not config.flag("use_sliding_window", False):
        return (None,) * layers
    first = config.integer("max_window_layers", 28, least=0)
    window = config.optional_integer("sliding_window", 4096)
    return config.windows(layers, [layer >= first for layer in range(layers)], window)


def describe(config: HfConfig, max_model_len: int | None) -> DecoderSpec:
    fields = shared(config, max_model_len)
    fields["windows"] = windows(config, len(fields["windows"]))
    fields["max_positions"] = config.integer("max_position_embeddings", 32768)
    return DecoderSpec(family="qwen2", **fields, qkv_bias=True)
