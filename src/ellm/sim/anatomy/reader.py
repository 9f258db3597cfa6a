"""From a Hugging Face config to a transformer, by what its keys say and not by its name.

A reader is asked for each layer in turn and answers with a cell, or None if the config has no such
cell there; the first answer counts.  `mixer` readers make the half of a block that looks along the
sequence, `channel` readers the half that does not.  A new kind of cell is one file that calls one
of the two; docs/simulate.md has an example.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ellm.core.errors import ModelError, UnsupportedModel
from ellm.models.config import HfConfig
from ellm.sim.anatomy.cell import Cell
from ellm.sim.anatomy.cells.attention import Attention
from ellm.sim.anatomy.cells.experts import Experts
from ellm.sim.anatomy.cells.latent import LatentAttention
from ellm.sim.anatomy.cells.mlp import Mlp
from ellm.sim.anatomy.cells.recurrent import Recurrent
from ellm.sim.anatomy.transformer import Transformer

CellReader = Callable[[HfConfig, int], Cell | None]

_mixers: list[CellReader] = []
_channels: list[CellReader] = []


def mixer(reader: CellReader) -> CellReader:
    """Ask `reader` before those that are there."""
    _mixers.insert(0, reader)
    return reader


def channel(reader: CellReader) -> CellReader:
    """Ask `reader` before those that are there."""
    _channels.insert(0, reader)
    return reader


def read_transformer(
    config: Mapping[str, Any], name: str = "", where: str = "config.json"
) -> Transformer:
    """What a config.json describes; raises ModelError for one that is incomplete, as the file
    `where`.

    Of a model that also sees or hears, the part that writes.
    """
    if isinstance(text := config.get("text_config"), Mapping):
        config = text
    reader = HfConfig(config, where)
    hidden = reader.integer("hidden_size")
    blocks = tuple(
        (_first(_mixers, reader, index), _first(_channels, reader, index))
        for index in range(reader.integer("num_hidden_layers"))
    )
    learned = reader.flag("learned_positions", "word_embed_proj_dim" in reader)
    context = reader.integer("max_position_embeddings", 2048)
    return Transformer(
        name=name or reader.text("model_type", "transformer"),
        hidden=hidden,
        vocab_size=reader.integer("vocab_size"),
        blocks=blocks,
        max_positions=context,
        tied=reader.flag("tie_word_embeddings", learned),
        positions=context + 2 if learned else 0,
        final=hidden * _norm_width(reader),
        dtype=reader.text("dtype", reader.text("torch_dtype", "")) or None,
    )


def read_config(path: Path) -> Mapping[str, Any]:
    """The config in a file or in a model's directory.  Raises ModelError."""
    file = path / "config.json" if path.is_dir() else path
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelError(f"cannot read {file}: {error.strerror}") from error
    except ValueError as error:
        raise ModelError(f"{file} is not JSON: {error}") from error
    if not isinstance(found, Mapping):
        raise ModelError(f"{file} is not a JSON object")
    return found


def _first(readers: list[CellReader], config: HfConfig, index: int) -> Cell:
    for reader in readers:
        cell = reader(config, index)
        if cell is not None:
            return cell
    raise UnsupportedModel(
        f"{config.where}: layer {index} is {_kind(config, index)}, which no reader knows: name a "
        "file that reads it with --extension (docs/simulate.md has one)"
    )


def _norm_width(config: HfConfig) -> int:
    """Parameters of a norm for each number: RMS has a weight, LayerNorm a bias too."""
    return 2 if _is_opt(config) else 1


def _is_opt(config: HfConfig) -> bool:
    return "ffn_dim" in config


def _kind(config: HfConfig, index: int) -> str:
    """What `layer_types` calls the layer; what its absence means where windows alternate."""
    kinds = config.names("layer_types")
    if kinds:
        if index >= len(kinds):
            raise ModelError(
                f"{config.where}: layer_types names {len(kinds)} layers, not {index + 1}"
            )
        return kinds[index]
    every = config.optional_integer("sliding_window_pattern")
    if every is not None:
        return "full_attention" if (index + 1) % every == 0 else "sliding_attention"
    every = config.optional_integer("full_attention_interval")
    if every is not None:
        return "full_attention" if (index + 1) % every == 0 else "linear_attention"
    return "attention"


def _window(config: HfConfig, index: int) -> int | None:
    kind = _kind(config, index)
    if kind == "sliding_attention":
        return config.integer("sliding_window")
    slides = kind == "attention" and config.flag("use_sliding_window", True)
    return config.optional_integer("sliding_window") if slides else None


@mixer
def _attention(config: HfConfig, index: int) -> Cell | None:
    if not _kind(config, index).endswith("attention"):
        return None
    hidden, heads = config.integer("hidden_size"), config.integer("num_attention_heads")
    head_dim = config.integer("head_dim", hidden // heads)
    kv_heads = config.integer("num_key_value_heads", heads)
    if heads % kv_heads:
        raise ModelError(
            f"{config.where}: {heads} attention heads cannot share {kv_heads} key-value heads "
            "evenly"
        )
    family = config.text("model_type", "")
    bias = config.flag("attention_bias", _is_opt(config) or family.startswith("qwen2"))
    return Attention(
        hidden=hidden,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        window=_window(config, index),
        qkv_bias=bias,
        out_bias=bias and not family.startswith("qwen2"),
        norms=hidden * _norm_width(config) + 2 * head_dim * family.startswith(("qwen3", "gemma3")),
        rotary_dim=0 if _is_opt(config) else int(head_dim * _rotated(config)),
    )


def _rotated(config: HfConfig) -> float:
    """The share of a head that is rotated, where models/rope.py looks for it."""
    key = "partial_rotary_factor"
    section = config.section("rope_parameters" if "rope_parameters" in config else "rope_scaling")
    return section.number(key, config.number(key, 1.0))


@mixer
def _latent(config: HfConfig, index: int) -> Cell | None:
    if "kv_lora_rank" not in config:
        return None
    return LatentAttention(
        hidden=config.integer("hidden_size"),
        heads=config.integer("num_attention_heads"),
        query_rank=config.optional_integer("q_lora_rank") or 0,
        kv_rank=config.integer("kv_lora_rank"),
        plain_dim=config.integer("qk_nope_head_dim"),
        rope_dim=config.integer("qk_rope_head_dim"),
        value_dim=config.integer("v_head_dim"),
    )


@mixer
def _recurrent(config: HfConfig, index: int) -> Cell | None:
    if _kind(config, index) != "linear_attention":
        return None
    return Recurrent(
        hidden=config.integer("hidden_size"),
        heads=config.integer("linear_num_value_heads"),
        key_heads=config.integer("linear_num_key_heads"),
        key_dim=config.integer("linear_key_head_dim"),
        value_dim=config.integer("linear_value_head_dim"),
        reach=config.integer("linear_conv_kernel_dim", 4),
    )


@channel
def _mlp(config: HfConfig, index: int) -> Cell | None:
    hidden, opt = config.integer("hidden_size"), _is_opt(config)
    return Mlp(
        hidden=hidden,
        filters=config.integer("ffn_dim" if opt else "intermediate_size"),
        gated=not opt,
        bias=config.flag("mlp_bias", opt),
        norms=hidden * _norm_width(config),
    )


@channel
def _experts(config: HfConfig, index: int) -> Cell | None:
    names = ("num_experts", "num_local_experts", "n_routed_experts")
    count = next((config.integer(name) for name in names if name in config), 0)
    if count < 2 or not _is_sparse(config, index):
        return None
    filters = config.integer("moe_intermediate_size", config.integer("intermediate_size", 1))
    shared = config.optional_integer("shared_expert_intermediate_size") or 0
    shared += (config.optional_integer("n_shared_experts") or 0) * filters
    return Experts(
        hidden=config.integer("hidden_size"),
        count=count,
        chosen=config.integer("num_experts_per_tok"),
        filters=filters,
        shared=shared,
    )


def _is_sparse(config: HfConfig, index: int) -> bool:
    """Whether the layer has experts: not the first few, and not where a step leaves them out."""
    if index < (config.optional_integer("first_k_dense_replace") or 0):
        return False
    if index in config.numbers("mlp_only_layers", ()):
        return False
    return (index + 1) % config.integer("decoder_sparse_step", 1) == 0
