"""Rotary frequencies from a Hugging Face config.

Plain (Su et al., 2021), linear scaling, Llama 3's ramp between short and long wavelengths, and
LongRoPE (Ding et al., 2024), whose factors are fixed by the context that will be served.
"""

from __future__ import annotations

import math

from ellm.core.errors import ModelError, UnsupportedModel
from ellm.models.config import HfConfig
from ellm.models.spec import RopeSpec

_SUPPORTED = ("default", "linear", "llama3", "longrope")


def rope_spec(config: HfConfig, head_dim: int, max_model_len: int | None) -> RopeSpec:
    """Reads `rope_parameters`, or `rope_scaling` with `rope_theta` as older configs have it."""
    section = config.section("rope_parameters" if "rope_parameters" in config else "rope_scaling")
    kind = section.text("rope_type", section.text("type", "default"))
    kind = {"su": "longrope"}.get(kind, kind)
    theta = section.number("rope_theta", config.number("rope_theta", 10000.0))
    share = section.number("partial_rotary_factor", config.number("partial_rotary_factor", 1.0))
    dim = int(head_dim * share)
    if dim < 2 or dim % 2:
        raise ModelError(f"config.json: rotary dimension {dim} of head_dim {head_dim} is not even")
    plain = [theta ** -(index / dim) for index in range(0, dim, 2)]
    match kind:
        case "default":
            return RopeSpec(tuple(plain))
        case "linear":
            factor = section.number("factor")
            return RopeSpec(tuple(frequency / factor for frequency in plain))
        case "llama3":
            return RopeSpec(tuple(_llama3(frequency, section, config) for frequency in plain))
        case "longrope":
            return _longrope(plain, section, config, max_model_len)
        case _:
            raise UnsupportedModel(
                f"config.json: rotary scaling {kind!r} is not implemented; "
                f"eLLM implements {', '.join(_SUPPORTED)}"
            )


def _original_length(section: HfConfig, config: HfConfig) -> int:
    key = "original_max_position_embeddings"
    return section.integer(key, config.integer(key, config.integer("max_position_embeddings")))


def _llama3(frequency: float, section: HfConfig, config: HfConfig) -> float:
    """Slow rotations are slowed by `factor`, fast ones kept, those between interpolated."""
    low, high = section.number("low_freq_factor"), section.number("high_freq_factor")
    turns = _original_length(section, config) * frequency / (2 * math.pi)
    slowed = frequency / section.number("factor")
    if turns < low:
        return slowed
    if turns > high:
        return frequency
    smooth = (turns - low) / (high - low)
    return (1 - smooth) * slowed + smooth * frequency


def _longrope(
    plain: list[float], section: HfConfig, config: HfConfig, max_model_len: int | None
) -> RopeSpec:
    original = _original_length(section, config)
    longest = config.integer("max_position_embeddings")
    serves_long = (max_model_len or longest) > original
    key = "long_factor" if serves_long else "short_factor"
    factors = section.numbers(key)
    if len(factors) != len(plain):
        raise ModelError(f"config.json: {key} has {len(factors)} numbers, expected {len(plain)}")
    stretch = section.number("factor", longest / original)
    implied = math.sqrt(1 + math.log(stretch) / math.log(original)) if stretch > 1 else 1.0
    scale = section.number("attention_factor", implied)
    scaled = (frequency / by for frequency, by in zip(plain, factors, strict=True))
    return RopeSpec(tuple(scaled), scale)
