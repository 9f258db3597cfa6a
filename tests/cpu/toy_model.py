"""A random Llama of a few thousand weights, saved with a tokenizer as the hub would have it."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from toy_tokenizers import byte_level
from transformers import LlamaConfig, LlamaForCausalLM

CONTEXT = 256


def save_toy_model(directory: Path) -> Path:
    """fp32, 2 layers, grouped heads, context 256."""
    core = byte_level()
    core.save(str(directory / "tokenizer.json"))
    template = "{% for m in messages %}<|user|>{{ m.content }}{% endfor %}"
    names = {"bos_token": "<bos>", "eos_token": "<eos>", "chat_template": template}
    (directory / "tokenizer_config.json").write_text(json.dumps(names))
    config = LlamaConfig(
        vocab_size=core.get_vocab_size(),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        bos_token_id=core.token_to_id("<bos>"),
        eos_token_id=core.token_to_id("<eos>"),
        initializer_range=0.3,
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(directory)
    return directory
