"""`ellm complete` on a directory of each family prints what transformers would say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from toy_tokenizers import byte_level

from ellm.cli.main import run

SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": 0,
}
GATED = SIZES | {"intermediate_size": 64, "num_key_value_heads": 2, "initializer_range": 0.3}
FAMILIES: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "llama": (transformers.LlamaConfig, transformers.LlamaForCausalLM, GATED),
    "mistral": (transformers.MistralConfig, transformers.MistralForCausalLM, GATED),
    "qwen2": (transformers.Qwen2Config, transformers.Qwen2ForCausalLM, GATED),
    "qwen3": (transformers.Qwen3Config, transformers.Qwen3ForCausalLM, GATED),
    "phi3": (transformers.Phi3Config, transformers.Phi3ForCausalLM, GATED),
    "opt": (
        transformers.OPTConfig,
        transformers.OPTForCausalLM,
        SIZES | {"ffn_dim": 64, "word_embed_proj_dim": 32, "init_std": 0.3},
    ),
}
PROMPT = "def add(a, b): return"


def save(family: str, directory: Path) -> Any:
    tokenizer = byte_level()
    tokenizer.save(str(directory / "tokenizer.json"))
    (directory / "tokenizer_config.json").write_text("{}")
    config, build, sizes = FAMILIES[family]
    torch.manual_seed(1)
    model = build(config(vocab_size=tokenizer.get_vocab_size(), **sizes)).eval()
    model.save_pretrained(directory)
    return model


def complete(directory: Path) -> int:
    words = ["complete", PROMPT, "--model", str(directory), "--max-tokens", "12"]
    words += ["--temperature", "0", "--memory", "64MiB", "--dtype", "float32", "--threads", "1"]
    return run(words)


def complaint(directory: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """What `ellm complete` says of a broken directory: one line on stderr, nothing on stdout."""
    assert complete(directory) == 2
    said = capsys.readouterr()
    assert said.out == ""
    lines = said.err.strip().splitlines()
    assert [line.startswith("error: ") for line in lines] == [True], said.err
    return lines[0]


@pytest.mark.parametrize("family", FAMILIES)
def test_complete_says_what_transformers_says(
    family: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = save(family, tmp_path)
    tokenizer = byte_level()
    ids = tokenizer.encode(PROMPT).ids
    with torch.inference_mode():
        prompt = torch.tensor([ids])
        mask = torch.ones_like(prompt)
        text = model.generate(prompt, attention_mask=mask, max_new_tokens=12, do_sample=False)
    expected = tokenizer.decode(text[0, len(ids) :].tolist())
    capsys.readouterr()
    assert complete(tmp_path) == 0
    assert capsys.readouterr().out == expected + "\n"


@pytest.mark.parametrize("family", ["llama", "opt"])
def test_a_truncated_checkpoint_is_one_clear_line(
    family: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(family, tmp_path)
    capsys.readouterr()
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert "model.safetensors" in complaint(tmp_path, capsys)


def test_a_missing_tensor_and_an_unknown_architecture_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save("llama", tmp_path)
    capsys.readouterr()
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"num_hidden_layers": 3}))
    assert "layers.2" in complaint(tmp_path, capsys)
    path.write_text(json.dumps(config | {"architectures": ["GPT2LMHeadModel"]}))
    said = complaint(tmp_path, capsys)
    assert "GPT2LMHeadModel" in said
    assert "LlamaForCausalLM" in said
