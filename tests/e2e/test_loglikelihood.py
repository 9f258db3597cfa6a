"""Scores of an echoed prompt are those the model had when it wrote the same text."""

from __future__ import annotations

import httpx
import pytest

from ellm.llm.async_llm import AsyncLLM


@pytest.mark.parametrize("limit", [0, 1])
def test_echoed_scores(url: str, bundled: AsyncLLM, limit: int) -> None:
    ids = bundled.tokenizer.encode("def add(a, b):\n    return")
    written = {
        "prompt": [ids],
        "max_tokens": 5,
        "temperature": 0,
        "logprobs": 1,
        "ignore_eos": True,
        "return_token_ids": True,
    }
    [choice] = httpx.post(url + "/v1/completions", json=written).json()["choices"]
    read = {
        "prompt": [ids + choice["token_ids"]],
        "max_tokens": limit,
        "temperature": 0,
        "logprobs": 1,
        "echo": True,
        "seed": 1234,
    }
    [echo] = httpx.post(url + "/v1/completions", json=read).json()["choices"]
    scores = echo["logprobs"]
    assert len(scores["token_logprobs"]) == len(ids) + 5 + limit
    assert scores["token_logprobs"][0] is None
    end = len(scores["token_logprobs"]) - limit
    assert scores["token_logprobs"][len(ids) : end] == pytest.approx(
        choice["logprobs"]["token_logprobs"], abs=1e-4
    )
    for chosen, best in zip(
        scores["token_logprobs"][len(ids) : end],
        scores["top_logprobs"][len(ids) : end],
        strict=True,
    ):
        assert chosen == max(best.values())  # greedy, as lm-eval tells it
    text = bundled.tokenizer.decode(ids + choice["token_ids"])
    assert echo["text"].startswith(text)
    assert scores["text_offset"][0] == 0
    assert scores["text_offset"][1] == 0  # the special token before it takes no room
