"""The two bundled models: they load, share a tokenizer, and predict Python."""

from __future__ import annotations

import json
import math
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import ellm

transformers = pytest.importorskip("transformers")

BUNDLED = Path(ellm.__file__).parent / "bundled"
NAMES = ("base", "draft")
LARGEST_SIZE = 40_000_000
HIGHEST_BITS_PER_BYTE = {"base": 1.3, "draft": 1.3}

# Written for this test, so it is in no training text.
EXCERPT = '''\
"""Bounded queues for work that arrives faster than it is done."""

import threading
from collections import deque


class BoundedQueue:
    """A first-in first-out queue that holds at most `limit` items."""

    def __init__(self, limit):
        if limit <= 0:
            raise ValueError("limit must be positive, got %r" % limit)
        self.limit = limit
        self._items = deque()
        self._lock = threading.Lock()
        self._not_full = threading.Condition(self._lock)

    def put(self, item, timeout=None):
        """Add an item at the end, waiting for room if the queue is full."""
        with self._not_full:
            while len(self._items) >= self.limit:
                if not self._not_full.wait(timeout):
                    raise TimeoutError("the queue is still full")
            self._items.append(item)

    def __len__(self):
        return len(self._items)
'''


@cache
def tokenizer(name: str) -> Any:
    return transformers.AutoTokenizer.from_pretrained(BUNDLED / name)


@cache
def model(name: str) -> Any:
    loaded = transformers.AutoModelForCausalLM.from_pretrained(BUNDLED / name)
    return loaded.eval()


def ids_of(text: str) -> list[int]:
    ids: list[int] = tokenizer("base")(text, add_special_tokens=False)["input_ids"]
    return ids


@pytest.mark.parametrize("name", NAMES)
def test_directory_loads_as_a_tied_bfloat16_llama(name: str) -> None:
    loaded = model(name)
    assert type(loaded).__name__ == "LlamaForCausalLM"
    assert loaded.dtype == torch.bfloat16
    assert loaded.config.max_position_embeddings == 2048
    assert loaded.lm_head.weight is loaded.model.embed_tokens.weight
    assert len(tokenizer(name)) == loaded.config.vocab_size
    assert set(loaded.generation_config.eos_token_id) == {
        tokenizer(name).eos_token_id,
        tokenizer(name).convert_tokens_to_ids("<|end|>"),
    }


def test_draft_is_several_times_smaller_than_base() -> None:
    sizes = [sum(p.numel() for p in model(name).parameters()) for name in NAMES]
    assert sizes[0] > 4 * sizes[1]


@pytest.mark.parametrize("file", ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja"])
def test_both_models_have_the_same_tokenizer(file: str) -> None:
    base, draft = ((BUNDLED / name / file).read_bytes() for name in NAMES)
    assert base == draft


@given(st.text())
def test_any_text_round_trips(text: str) -> None:
    assert tokenizer("base").decode(ids_of(text)) == text or "<|" in text


@pytest.mark.parametrize(
    "text",
    [
        EXCERPT,
        "def f():\n\treturn  1\r\n",
        "x = {\n    'ключ': '値 🎉',\n}\n\n\n",
        " \n  \n   \u00a0\u2003end ",
    ],
)
def test_code_round_trips(text: str) -> None:
    assert tokenizer("base").decode(ids_of(text)) == text


def test_line_break_at_the_end_of_a_prompt_splits_as_inside_a_text() -> None:
    prompt = "def f(x):\n"
    whole = ids_of(prompt + "    return x\n")
    assert whole[: len(ids_of(prompt))] == ids_of(prompt)


def test_plain_text_begins_with_bos() -> None:
    assert tokenizer("base")("x")["input_ids"][0] == tokenizer("base").bos_token_id


def test_chat_template_renders_as_trained() -> None:
    turns = [{"role": "user", "content": "Add two numbers."}]
    rendered = tokenizer("base").apply_chat_template(
        turns, tokenize=False, add_generation_prompt=True
    )
    assert rendered == "<|bos|><|user|>Add two numbers.<|end|><|assistant|>"
    turns.append({"role": "assistant", "content": "def add(a, b):\n    return a + b"})
    rendered = tokenizer("base").apply_chat_template(turns, tokenize=False)
    assert rendered == (
        "<|bos|><|user|>Add two numbers.<|end|><|assistant|>def add(a, b):\n    return a + b<|end|>"
    )
    markers = [token for token in ids_of(rendered) if token < 6]
    assert tokenizer("base").convert_ids_to_tokens(markers) == [
        "<|bos|>", "<|user|>", "<|end|>", "<|assistant|>", "<|end|>",
    ]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_bits_per_byte_on_unseen_python(name: str) -> None:
    ids = torch.tensor([tokenizer(name)(EXCERPT)["input_ids"]])
    with torch.inference_mode():
        logits = model(name)(ids).logits.float()
    nats = torch.nn.functional.cross_entropy(logits[0, :-1], ids[0, 1:], reduction="sum")
    assert float(nats) / math.log(2) / len(EXCERPT.encode()) < HIGHEST_BITS_PER_BYTE[name]


def test_both_together_are_small() -> None:
    files = [path for path in BUNDLED.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < LARGEST_SIZE


@pytest.mark.parametrize("name", NAMES)
def test_card_and_template_are_there(name: str) -> None:
    config = json.loads((BUNDLED / name / "tokenizer_config.json").read_text())
    assert config["chat_template"] == (BUNDLED / name / "chat_template.jinja").read_text()
    card = (BUNDLED / name / "README.md").read_text()
    assert "PSF" in card
    assert "BSD" in card
    assert "bits per byte" in card
