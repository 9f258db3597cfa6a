"""Llama 2 and 3.x: the architecture every other family is described against."""

from __future__ import annotations

from typing import Any

from ellm.models.config import HfConfig
from ellm.models.rope import rope_spec
from ellm.models.spec import DecoderSpec


def shared(config: HfConfig, max_model_len: int | None) -> dict[str, Any]:
    """The fields that Llama and its descendants read from the config in the same way."""
    hidden, heads = config.integer("hidden_size"), config.integer("num_attention_heads")
    head_dim = config.integer("head_dim", hidden // heads)
    return {
        "vocab_size": config.integer("vocab_size"),
        "hidden_size": hidden,
        "intermediate_size": config.integer("intermediate_size"),
        "num_heads": heads,
        "num_kv_heads": config.integer("num_key_value_heads", heads),
        "head_dim": head_dim,
        "max_positions": config.integer("max_position_embeddings", 2048),
        "windows": (None,) * config.integer("num_hidden_layers"),
        "rope": rope_spec(config, head_dim, max_model_len),
        "norm_eps": config.number("rms_norm_eps", 1e-6),
        "activation": config.activation("hidden_act", "silu"),
        "tied": config.flag("tie_word_embeddings", False),
    }


def describe(config: HfConfig, max_model_len: int | None) -> DecoderSpec:
    attention_bias = config.flag("attention_bias", False)
    fields = shared(config, max_model_len)
    return DecoderSpec(
        family="llama",
        **fields,
        qkv_bias=attention_bias,
        attention_out_bias=attention_bias,
        mlp_bias=config.flag("mlp_bias", False),
    )
