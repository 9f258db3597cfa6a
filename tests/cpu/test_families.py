"""Every family's logits are those of transformers, however a sequence is cut into steps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from backends import BACKENDS, computes
from device_half import Device, save_random
from torch import Tensor

TINY = {
    "vocab_size": 97,
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}
GATED = TINY | {"intermediate_size": 40, "num_key_value_heads": 2, "pad_token_id": 0}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 1000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
LONG = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0, 1.5, 2.0, 3.0],
    "long_factor": [1.0, 2.0, 4.0, 8.0],
}

Build = Callable[[], Any]


def _llama(**more: Any) -> Any:
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**GATED | more))


def _mistral(**more: Any) -> Any:
    return transformers.MistralForCausalLM(transformers.MistralConfig(**GATED | more))


def _qwen2(**more: Any) -> Any:
    return transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**GATED | more))


def _qwen3(**more: Any) -> Any:
    return transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**GATED | more))


def _phi3(**more: Any) -> Any:
    return transformers.Phi3ForCausalLM(transformers.Phi3Config(**GATED | more))


def _opt(**more: Any) -> Any:
    tiny = TINY | {"ffn_dim": 40, "word_embed_proj_dim": 32}
    return transformers.OPTForCausalLM(transformers.OPTConfig(**tiny | more))


FAMILIES: dict[str, Build] = {
    "llama": _llama,
    "llama-tied": lambda: _llama(tie_word_embeddings=True),
    "llama-biases": lambda: _llama(attention_bias=True, mlp_bias=True),
    "llama3-rope": lambda: _llama(rope_parameters=LLAMA3, head_dim=16),
    "llama-linear-rope": lambda: _llama(
        rope_parameters={"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}
    ),
    "mistral-window": lambda: _mistral(sliding_window=7),
    "mistral-head-dim": lambda: _mistral(sliding_window=None, head_dim=12),
    "qwen2": _qwen2,
    "qwen2-window": lambda: _qwen2(
        use_sliding_window=True, sliding_window=6, max_window_layers=2, tie_word_embeddings=True
    ),
    "qwen3": lambda: _qwen3(head_dim=16),
    "phi3-window": lambda: _phi3(sliding_window=9),
    "phi3-partial": lambda: _phi3(
        rope_parameters={
            "rope_type": "default",
            "rope_theta": 10000.0,
            "partial_rotary_factor": 0.5,
        }
    ),
    "phi3-longrope": lambda: _phi3(
        rope_parameters=LONG, original_max_position_embeddings=32, max_position_embeddings=32
    ),
    "phi3-longrope-long": lambda: _phi3(
        rope_parameters=LONG, original_max_position_embeddings=8, max_position_embeddings=64
    ),
    "opt": _opt,
    "opt-gelu-untied": lambda: _opt(activation_function="gelu", tie_word_embeddings=False),
}

LAYOUTS = {
    "contiguous": {},
    "contiguous-grouped": {"groups": 2},
    "paged": {"page": 4},
    "paged-grouped": {"page": 3, "groups": 4},
}


@pytest.fixture(scope="session", params=FAMILIES)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A random model and the directory that it is saved in."""
    torch.manual_seed(0)
    directory = tmp_path_factory.mktemp(request.param)
    return save_random(FAMILIES[request.param](), directory), directory


def expected(reference: Any, tokens: list[int]) -> Tensor:
    with torch.no_grad():
        return reference(torch.tensor([tokens])).logits[0]


def random_tokens(count: int, seed: int) -> list[int]:
    return torch.randint(97, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_mixed_steps_give_the_reference_logits(model: tuple[Any, Path], layout: str) -> None:
    """Prefill, chunked prefill and decode of different sequences share each step."""
    reference, directory = model
    device = Device(directory, **LAYOUTS[layout])
    lengths = (25, 18, 30)
    prompts = [random_tokens(length, seed) for seed, length in enumerate(lengths)]
    wanted = [expected(reference, tokens) for tokens in prompts]
    cuts = [(0, 20, 21, 22, 23, 25), (0, 5, 13, 14, 18, 18), (0, 0, 0, 30, 30, 30)]
    for step in range(5):
        parts = [
            (sequence, prompts[sequence][cut[step] : cut[step + 1]], cut[step])
            for sequence, cut in enumerate(cuts)
            if cut[step] < cut[step + 1]
        ]
        for (sequence, tokens, start), logits in zip(parts, device.logits(parts), strict=True):
            target = wanted[sequence][start : start + len(tokens)]
            torch.testing.assert_close(logits, target, atol=1e-4, rtol=0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_every_backend_gives_the_reference_logits(model: tuple[Any, Path], backend: str) -> None:
    reference, directory = model
    tokens = random_tokens(30, 5)
    device = Device(directory, ops=BACKENDS[backend], page=8)
    (logits,) = device.logits([(0, tokens, 0)])
    torch.testing.assert_close(logits, expected(reference, tokens), atol=1e-4, rtol=0)


def test_greedy_decoding_is_that_of_generate(model: tuple[Any, Path]) -> None:
    reference, directory = model
    device = Device(directory, page=8)
    prompt = random_tokens(9, 11)
    ids = torch.tensor([prompt])
    target = reference.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=20, do_sample=False,
        eos_token_id=None, pad_token_id=0,
    )[0].tolist()  # fmt: skip
    tokens, computed = list(prompt), 0
    while len(tokens) < len(target):
        _, (result,) = device.step([(0, tokens[computed:], computed)])
        computed = len(tokens)
        assert result.token is not None
        tokens.append(result.token)
    assert tokens == target


SHORT = {"bfloat16": 0.05, "float16": 0.01}


@pytest.mark.parametrize(
    ("dtype", "backend"),
    [
        (dtype, name)
        for dtype in SHORT
        for name in BACKENDS
        if computes(name, getattr(torch, dtype))
    ],
)
def test_short_floats_stay_near_float32(model: tuple[Any, Path], dtype: str, backend: str) -> None:
    """Within a share of the logits' own spread: what rounding every intermediate costs."""
    reference, directory = model
    tokens = random_tokens(30, 3)
    (logits,) = Device(directory, dtype, ops=BACKENDS[backend]).logits([(0, tokens, 0)])
    wanted = expected(reference, tokens)
    assert float((logits - wanted).std() / wanted.std()) < SHORT[dtype]
