"""OPT: learned positions, LayerNorm, ReLU and biases everywhere."""

from __future__ import annotations

from ellm.core.errors import UnsupportedModel
from ellm.models.config import HfConfig
from ellm.models.spec import DecoderSpec, Norm, WeightNames

# The table's first rows stand for padding in the original code and are never looked up here.
_POSITION_OFFSET = 2

_NAMES = WeightNames(
    embed="model.decoder.embed_tokens",
    positions="model.decoder.embed_positions",
    layer="model.decoder.layers",
    attention_norm="self_attn_layer_norm",
    attention_out="self_attn.out_proj",
    mlp_norm="final_layer_norm",
    up=("fc1",),
    down="fc2",
    final_norm="model.decoder.final_layer_norm",
)


def describe(config: HfConfig, max_model_len: int | None) -> DecoderSpec:
    del max_model_len  # learned positions do not depend on it
    hidden, heads = config.integer("hidden_size"), config.integer("num_attention_heads")
    _refuse_variants(config, hidden)
    positions = config.integer("max_position_embeddings", 2048)
    bias = config.flag("enable_bias", True)
    return DecoderSpec(
        family="opt",
        vocab_size=config.integer("vocab_size"),
        hidden_size=hidden,
        intermediate_size=config.integer("ffn_dim"),
        num_heads=heads,
        num_kv_heads=heads,
        head_dim=hidden // heads,
        max_positions=positions,
        windows=(None,) * config.integer("num_hidden_layers"),
        rope=None,
        norm=Norm.LAYER,
        norm_eps=1e-5,
        activation=config.activation("activation_function", "relu"),
        gated=False,
        qkv_bias=bias,
        attention_out_bias=bias,
        mlp_bias=bias,
        tied=config.flag("tie_word_embeddings", True),
        positions=positions + _POSITION_OFFSET,
        position_offset=_POSITION_OFFSET,
        names=_NAMES,
    )


def _refuse_variants(config: HfConfig, hidden: int) -> None:
    """The 350 M model alone norms after each block and projects its embeddings."""
    for key, expected in (
        ("do_layer_norm_before", True),
        ("layer_norm_elementwise_affine", True),
        ("_remove_final_layer_norm", False),
    ):
        if config.flag(key, expected) != expected:
            raise UnsupportedModel(
                f"OPT with {key}={str(not expected).lower()} is not implemented; "
                "every OPT size but 350m has the supported form"
            )
    projected = config.integer("word_embed_proj_dim", hidden)
    if projected != hidden:
        raise UnsupportedModel(
            f"OPT with word_embed_proj_dim={projected} different from hidden_size={hidden} is not "
            "implemented; every OPT size but 350m has the supported form"
        )
