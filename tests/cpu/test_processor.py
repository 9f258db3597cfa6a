"""Requests that the model cannot serve are refused with numbers, before anything runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from toy_tokenizers import byte_level

from ellm.core.clock import MonotonicClock
from ellm.core.errors import ContextOverflow, ModelError, RequestError
from ellm.core.sampling import SamplingParams
from ellm.llm.processor import Processor, end_token_ids
from ellm.llm.tokenizer import Tokenizer

TOKENIZER = Tokenizer(byte_level())
PROCESSOR = Processor(TOKENIZER, 400, 32, frozenset({3, 999}), MonotonicClock())


def process(prompt: Any, **fields: Any) -> Any:
    return PROCESSOR.process("id", prompt, SamplingParams(**fields))


def test_the_shapes_of_a_prompt() -> None:
    ids = TOKENIZER.encode("hello world")
    assert process("hello world")[0].prompt == tuple(ids)
    assert process("hello world")[1] == "hello world"
    assert process(ids)[0].prompt == tuple(ids)
    assert process(ids)[1] is None
    assert process(np.array(ids))[0].prompt == tuple(ids)
    assert all(type(token) is int for token in process(np.array(ids))[0].prompt)
    assert process({"prompt": "x"})[0].prompt == tuple(TOKENIZER.encode("x"))
    both = process({"prompt": "shown", "prompt_token_ids": ids})
    assert (both[0].prompt, both[1]) == (tuple(ids), "shown")


@pytest.mark.parametrize(
    "prompt",
    ["", [], {}, {"prompt": ""}, {"prompt_token_ids": []}, 5, None, ["a"], [1.5], {"prompt": 3}],
)
def test_what_is_not_a_prompt(prompt: Any) -> None:
    with pytest.raises(RequestError) as info:
        process(prompt)
    assert info.value.param == "prompt"


@pytest.mark.parametrize("token", [-1, 400, 2**40])
def test_ids_outside_the_vocabulary(token: int) -> None:
    with pytest.raises(RequestError, match=f"{token}; ids are 0 to 399"):
        process([1, token, 2])


def test_ids_in_parameters_must_exist() -> None:
    with pytest.raises(RequestError, match="400") as info:
        process([1], logit_bias={400: 1.0, 3: 2.0})
    assert info.value.param == "logit_bias"
    with pytest.raises(RequestError) as info:
        process([1], stop_token_ids=[400])
    assert info.value.param == "stop_token_ids"
    for name in ("logprobs", "prompt_logprobs"):
        with pytest.raises(RequestError, match="vocabulary has 400") as info:
            process([1], **{name: 401})
        assert info.value.param == name
        process([1], **{name: 400})


def test_max_tokens_fills_the_context_unless_given() -> None:
    request, _ = process([1] * 10, max_tokens=None)
    assert request.max_tokens == 22
    request, _ = process([1] * 10, max_tokens=22)
    assert request.max_length == 32
    with pytest.raises(ContextOverflow, match=r"10 prompt.*max_tokens=23.*33.*32.*at most 22"):
        process([1] * 10, max_tokens=23)
    with pytest.raises(ContextOverflow, match=r"min_tokens is 30.*room for 22"):
        process([1] * 10, max_tokens=None, min_tokens=30)


def test_a_prompt_as_long_as_the_context() -> None:
    assert process([1] * 31, max_tokens=None)[0].max_tokens == 1
    with pytest.raises(ContextOverflow, match=r"32 tokens.*context of 32") as info:
        process([1] * 32, max_tokens=None)
    assert info.value.param == "prompt"


def test_end_tokens_come_from_every_place_that_names_them(tmp_path: Path) -> None:
    assert end_token_ids(tmp_path, {}, None) == frozenset()
    assert end_token_ids(tmp_path, {"eos_token_id": 0}, 7) == {0, 7}
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [4, 5]}))
    assert end_token_ids(tmp_path, {"eos_token_id": [2, 4]}, None) == {2, 4, 5}
    (tmp_path / "generation_config.json").write_text("{")
    with pytest.raises(ModelError, match="generation_config"):
        end_token_ids(tmp_path, {}, None)


def test_end_tokens_beyond_the_vocabulary_are_left_out() -> None:
    assert process([1])[0].end_token_ids == {3}
