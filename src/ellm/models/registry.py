"""Which architectures we implement, and the way from a config to a spec."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from ellm.core.errors import ModelError, UnsupportedModel
from ellm.models import llama, mistral, opt, phi3, qwen2, qwen3
from ellm.models.config import HfConfig
from ellm.models.spec import DecoderSpec

_Describe = Callable[[HfConfig, int | None], DecoderSpec]

ARCHITECTURES: Mapping[str, _Describe] = MappingProxyType(
    {
        "LlamaForCausalLM": llama.describe,
        "MistralForCausalLM": mistral.describe,
        "OPTForCausalLM": opt.describe,
        "Phi3ForCausalLM": phi3.describe,
        "Qwen2ForCausalLM": qwen2.describe,
        "Qwen3ForCausalLM": qwen3.describe,
    }
)


def describe(config: Mapping[str, Any], max_model_len: int | None = None) -> DecoderSpec:
    """The decoder that a Hugging Face config means; absent keys take transformers' defaults.

    `max_model_len` is the context to be served (None: the model's own); only LongRoPE reads it.
    Raises UnsupportedModel for what we do not implement, ModelError for a malformed config.
    """
    names = config.get("architectures")
    if not isinstance(names, list) or not names or not isinstance(names[0], str):
        raise ModelError("config.json names no architecture: 'architectures' must list one")
    found = ARCHITECTURES.get(names[0])
    if found is None:
        raise UnsupportedModel(
            f"architecture {names[0]} is not implemented; eLLM serves {', '.join(ARCHITECTURES)}"
        )
    if config.get("quantization_config") is not None:
        raise UnsupportedModel(
            "the checkpoint is quantized; eLLM loads bfloat16, float16 and float32 checkpoints"
        )
    reader = HfConfig(config)
    spec = found(reader, max_model_len)
    _check(spec)
    dtype = reader.text("dtype", reader.text("torch_dtype", "")) or None
    return replace(spec, dtype=dtype)


def _check(spec: DecoderSpec) -> None:
    if spec.num_heads % spec.num_kv_heads:
        raise ModelError(
            f"config.json: {spec.num_heads} attention heads cannot share "
            f"{spec.num_kv_heads} key-value heads evenly"
        )
