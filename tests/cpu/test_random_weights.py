"""Weights that no file has: what they are like, and which models may have them."""

from __future__ import annotations

import asyncio
import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from device_half import aligned
from hypothesis import given
from hypothesis import strategies as st

from ellm import LLM, AsyncFleet, SamplingParams
from ellm.core.errors import CheckpointError, ModelError, ModelNotFound, UnsupportedModel
from ellm.core.units import MIB
from ellm.kernels.reference import ReferenceOps
from ellm.llm.args import EngineArgs
from ellm.llm.blueprint import Blueprint
from ellm.models.parameters import parameters
from ellm.models.registry import describe
from ellm.models.spec import DecoderSpec
from ellm.runtime import random_weights
from ellm.runtime.loader import lay_out, weight_bytes
from ellm.runtime.random_weights import make_weights

CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 512,
    "vocab_size": 9000,
    "max_position_embeddings": 512,
    "torch_dtype": "bfloat16",
}
BIASED = {**CONFIG, "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2"}


def made(spec: DecoderSpec, dtype: torch.dtype, seed: int = 0) -> dict[str, torch.Tensor]:
    room = aligned(weight_bytes(spec, dtype))
    make_weights(spec, dtype, room.data_ptr(), ReferenceOps(), seed=seed)
    found = lay_out(spec, dtype, room.data_ptr(), "cpu")
    return {name: tensor.clone() for name, tensor in found.items()}


def test_numbers_have_the_spread_that_keeps_layers_alike() -> None:
    spec = describe(BIASED)
    tensors = made(spec, torch.float32)
    for one in parameters(spec):
        tensor = tensors[one.name]
        if "norm." in one.name:
            assert bool((tensor == 1).all()), one.name
            continue
        wanted = one.shape[1] ** -0.5 if tensor.dim() == 2 else 0.02
        slack = 6 / one.numel**0.5
        assert abs(tensor.std().item() / wanted - 1) < slack, one.name
        assert abs(tensor.mean().item() / wanted) < slack, one.name
        assert tensor.abs().max() < 3.5 * wanted, one.name
    assert tensors["layers.0.up.weight"].unique().numel() > 500


def test_layers_and_seeds_have_numbers_of_their_own() -> None:
    spec = describe(CONFIG)
    one, other = made(spec, torch.float32), made(spec, torch.float32, seed=1)
    first, second = one["layers.0.down.weight"].view(-1), one["layers.1.down.weight"].view(-1)
    for a, b in ((first, second), (first, other["layers.0.down.weight"].view(-1))):
        assert abs(torch.corrcoef(torch.stack((a, b)))[0, 1]) < 6 / len(a) ** 0.5
    assert torch.equal(first, made(spec, torch.float32)["layers.0.down.weight"].view(-1))


def test_a_narrow_dtype_has_the_same_numbers_rounded() -> None:
    spec = describe(CONFIG)
    exact, narrow = made(spec, torch.float32), made(spec, torch.bfloat16)
    assert all(torch.equal(exact[name].bfloat16(), narrow[name]) for name in exact)


@given(block=st.integers(1, 5000), count=st.integers(1, 10_000))
def test_pieces_do_not_matter(block: int, count: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        whole, parts = torch.empty(count), torch.empty(count)
        random_weights._Noise("cpu").write(whole, "name", 1.0)
        patch.setattr(random_weights, "_CPU_BLOCK", block)
        random_weights._Noise("cpu").write(parts, "name", 1.0)
    assert torch.equal(whole, parts)


def test_places_beyond_31_bits_are_places_too() -> None:
    noise = random_weights._Noise("cpu")
    noise._hash(8, (1 << 31) - 4, 1, 2)
    across = noise._bits[:8].clone()
    noise._hash(4, 1 << 31, 1, 2)
    assert torch.equal(across[4:], noise._bits[:4])


def test_a_config_is_enough_to_serve(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    answers = []
    for _ in range(2):
        with (
            caplog.at_level(logging.WARNING),
            LLM(str(tmp_path), load_format="dummy", memory="64MiB", threads=1) as llm,
        ):
            params = SamplingParams(max_tokens=16, temperature=0, ignore_eos=True)
            outputs = llm.generate(["def add(a, b):", "import os"], params)
            answers.append([output.outputs[0].token_ids for output in outputs])
    assert answers[0] == answers[1]
    assert answers[0][0] != answers[0][1]
    assert all(len(set(tokens)) > 8 for tokens in answers[0])
    assert "random weights" in caplog.text


def test_a_known_shape_is_enough() -> None:
    plan = Blueprint.draw(EngineArgs(model="llama-3.1-8b", load_format="dummy"))
    assert plan.checkpoint is None
    assert 8.0e9 < plan.weight_bytes / 2 < 8.1e9
    assert plan.tokenizer.vocab_size == 8192


def test_what_cannot_be_made_up_is_said(tmp_path: Path) -> None:
    def draw(name: str) -> None:
        Blueprint.draw(EngineArgs(model=name, load_format="dummy"))

    with pytest.raises(ModelNotFound, match=r"llama-3\.2-9b.*did you mean llama-3"):
        draw("llama-3.2-9b")
    with pytest.raises(ModelNotFound, match=r"has no config\.json"):
        draw(str(tmp_path))
    with pytest.raises(ModelError, match=r"no tokenizer\.json"):
        Blueprint.draw(EngineArgs(model="ellm-base", load_format="dummy", tokenizer=str(tmp_path)))
    with pytest.raises(UnsupportedModel, match="Mixtral"):
        draw("mixtral-8x7b")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="not valid JSON"):
        draw(str(tmp_path))


def test_a_model_that_comes_later_is_made_up_as_the_first(tmp_path: Path) -> None:
    """Also one that was sent away, and one that has real weights elsewhere; unless it is said."""
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    name = str(tmp_path)

    async def scene() -> None:
        args = EngineArgs(model=name, memory=256 * MIB, load_format="dummy", max_model_len=256)
        fleet = await asyncio.to_thread(AsyncFleet, [args])
        try:
            served = args.name
            await fleet.unload(served)
            assert await fleet.load(name, max_model_len=256) == served
            await fleet.load("ellm-draft", served_model_name="made up", max_model_len=256)
            await fleet.load("ellm-draft", load_format="auto", max_model_len=256)
            said = {}
            for one in ("made up", "ellm-draft"):
                params = SamplingParams(max_tokens=6, temperature=0)
                async for output in fleet.backend(one).generate("def f(", params, one):
                    said[one] = output.outputs[0].token_ids
            assert said["made up"] != said["ellm-draft"]
        finally:
            await asyncio.to_thread(fleet.close)

    asyncio.run(scene())
