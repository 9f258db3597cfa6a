"""Mistral: Llama whose every layer may look back through a window."""

from __future__ import annotations

from ellm.models.config import HfConfig
from ellm.models.llama import shared
from ellm.models.spec import DecoderSpec


def describe(config: HfConfig, max_model_len: int | None) -> DecoderSpec:
    fields = shared(config, max_model_len)
    layers = len(fields["windows"])
    window = config.optional_integer("sliding_window", 4096)
    fields["windows"] = config.windows(layers, [True] * layers, window)
    fields["max_positions"] = config.integer("max_position_embeddings", 131072)
    return DecoderSpec(family="mistral", **fields)
