"""Write a Llama for llama.cpp: to_gguf.py MODEL OUT, in an environment that has `gguf`.

Matrices stay bf16; vectors become float32, as llama.cpp wants them.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import gguf
import torch
from safetensors.torch import load_file

Config = dict[str, Any]


def main(model: Path, out: Path) -> None:
    config = json.loads((model / "config.json").read_text())
    writer = gguf.GGUFWriter(out, gguf.MODEL_ARCH_NAMES[gguf.MODEL_ARCH.LLAMA])
    add_shape(writer, config)
    add_vocabulary(writer, config, json.loads((model / "tokenizer.json").read_text()))
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config["num_hidden_layers"])
    for name, tensor in load_file(model / "model.safetensors").items():
        known = names.get_name(name, try_suffixes=(".weight",))
        assert known, name
        add_tensor(writer, known, rotated(name, tensor, config))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def add_shape(writer: gguf.GGUFWriter, config: Config) -> None:
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_BF16)
    writer.add_vocab_size(config["vocab_size"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])


def add_vocabulary(writer: gguf.GGUFWriter, config: Config, tokenizer: Config) -> None:
    """The byte-level vocabulary of `harness.random_llama`, which has no merges."""
    special = {token["content"] for token in tokenizer["added_tokens"]}
    vocabulary = tokenizer["model"]["vocab"]
    tokens = sorted(vocabulary, key=vocabulary.__getitem__)
    assert len(tokens) == config["vocab_size"], (len(tokens), config["vocab_size"])
    kinds = gguf.TokenType
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([kinds.CONTROL if t in special else kinds.NORMAL for t in tokens])
    # An empty list cannot be written; these two never meet in a text.
    writer.add_token_merges([" ".join(tokens[:2])])
    writer.add_bos_token_id(config["bos_token_id"])
    writer.add_eos_token_id(config["eos_token_id"])
    writer.add_pad_token_id(config["pad_token_id"])
    writer.add_add_bos_token(False)


def rotated(name: str, tensor: torch.Tensor, config: Config) -> torch.Tensor:
    """Rows of Q and K in the order in which llama.cpp rotates them.

    A head of Hugging Face's turns row i with row i + d/2, one of llama.cpp's turns neighbours:

        0  1  2 … d/2-1 │ d/2 … d-1      ──▶      0  d/2  1  d/2+1  2 …
    """
    if not name.endswith(("q_proj.weight", "k_proj.weight")):
        return tensor
    halves = tensor.unflatten(0, (-1, 2, config["head_dim"] // 2))
    return halves.transpose(1, 2).reshape(tensor.shape)


def add_tensor(writer: gguf.GGUFWriter, name: str, tensor: torch.Tensor) -> None:
    if tensor.ndim == 1:
        writer.add_tensor(name, tensor.float().numpy())
        return
    # NumPy has no bf16, so the file is told what these 16 bits are.
    bits = tensor.contiguous().view(torch.uint16).numpy()
    writer.add_tensor(name, bits, raw_dtype=gguf.GGMLQuantizationType.BF16)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
