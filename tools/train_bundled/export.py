"""Writing a checkpoint as a Hugging Face directory.

Promise: what `export` leaves loads with `transformers`, and its logits agree with the training
model's; it raises before replacing anything if they do not.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing
from transformers import AutoModelForCausalLM

from .card import Figures, card
from .model import MAX_POSITIONS, NORM_EPSILON, ROPE_THETA, SHAPES, Llama, Shape
from .vocabulary import (
    ASSISTANT,
    BOS,
    CHAT_TEMPLATE,
    END,
    EOS,
    PAD,
    SPECIAL_TOKENS,
    USER,
)

LARGEST_DIFFERENCE = 2e-3  # of the logits' own spread, both computed in float32


def load_checkpoint(path: Path) -> tuple[Llama, dict[str, Any]]:
    """The model that a run saved, and the rest of its checkpoint."""
    state: dict[str, Any] = torch.load(path, weights_only=True)
    model = Llama(SHAPES[state["shape"]])
    model.load_state_dict(state["model"])
    return model.eval(), state


def round_to_bfloat16(model: Llama) -> None:
    """Give the model the values that the shipped file will hold."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.bfloat16().float())


def export(model: Llama, tokenizer: Path, figures: Figures, target: Path) -> None:
    """Write the model, the tokenizer and the card to `target`, replacing what was there."""
    fresh = target.with_name(target.name + ".partial")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    weights = {name: value.bfloat16().contiguous() for name, value in model.state_dict().items()}
    save_file(weights, fresh / "model.safetensors", metadata={"format": "pt"})
    write(fresh / "config.json", config(model.shape))
    write(fresh / "generation_config.json", generation_config())
    save_tokenizer(tokenizer, fresh / "tokenizer.json")
    write(fresh / "tokenizer_config.json", tokenizer_config())
    write(fresh / "special_tokens_map.json", special_tokens_map())
    (fresh / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    (fresh / "README.md").write_text(card(model, figures))
    (fresh / "model.safetensors").chmod(0o644)
    check(model, fresh)
    shutil.rmtree(target, ignore_errors=True)
    fresh.rename(target)


def check(model: Llama, folder: Path) -> None:
    """Raise unless `transformers` computes the training model's logits from the folder."""
    loaded = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(model.shape.vocabulary, (1, 300), generator=generator)
    with torch.inference_mode():
        ours, theirs = model(ids), loaded(ids).logits
    difference = float((ours - theirs).abs().max() / ours.std())
    if difference > LARGEST_DIFFERENCE:
        raise RuntimeError(f"transformers' logits differ by {difference:.2e} of their spread")


def save_tokenizer(trained: Path, target: Path) -> None:
    """The trained tokenizer, made to begin plain text with `bos` as its documents began."""
    tokenizer = Tokenizer.from_file(str(trained))
    tokenizer.post_processor = TemplateProcessing(
        single=f"{BOS} $A",
        pair=f"{BOS} $A $B",
        special_tokens=[(BOS, SPECIAL_TOKENS.index(BOS))],
    )
    tokenizer.save(str(target))


def write(path: Path, content: dict[str, Any]) -> None:
    """Write JSON with a final line break."""
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def ids(*tokens: str) -> list[int]:
    """The ids of special tokens, which are the vocabulary's first entries."""
    return [SPECIAL_TOKENS.index(token) for token in tokens]


def config(shape: Shape) -> dict[str, Any]:
    """The model's shape, as `LlamaForCausalLM` reads it."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": shape.vocabulary,
        "hidden_size": shape.hidden,
        "intermediate_size": shape.mlp,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_width,
        "hidden_act": "silu",
        "max_position_embeddings": MAX_POSITIONS,
        "rope_theta": ROPE_THETA,
        "rope_scaling": None,
        "rms_norm_eps": NORM_EPSILON,
        "initializer_range": 0.02,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "mlp_bias": False,
        "tie_word_embeddings": True,
        "bos_token_id": ids(BOS)[0],
        "eos_token_id": ids(EOS, END),
        "pad_token_id": ids(PAD)[0],
        "torch_dtype": "bfloat16",
        "use_cache": True,
    }


def generation_config() -> dict[str, Any]:
    """Both ends of text stop generation; the rest is left to the caller."""
    return {
        "bos_token_id": ids(BOS)[0],
        "eos_token_id": ids(EOS, END),
        "pad_token_id": ids(PAD)[0],
    }


def special_tokens_map() -> dict[str, Any]:
    """The roles of the special tokens."""
    return {
        "bos_token": BOS,
        "eos_token": EOS,
        "pad_token": PAD,
        "additional_special_tokens": [USER, ASSISTANT, END],
    }


def tokenizer_config() -> dict[str, Any]:
    """What `AutoTokenizer` needs beside tokenizer.json, the chat template included."""
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": MAX_POSITIONS,
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],
        "chat_template": CHAT_TEMPLATE,
        **special_tokens_map(),
    }
