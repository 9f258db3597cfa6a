"""Sixty-four clients at once get, over HTTP, what each would get alone and offline."""

from __future__ import annotations

import asyncio
import random

import httpx

from ellm import LLM, SamplingParams

COUNT, LENGTH = 64, 16


def prompts() -> list[list[int]]:
    rng = random.Random(11)
    return [[rng.randrange(100, 2000) for _ in range(rng.randrange(1, 120))] for _ in range(COUNT)]


def alone() -> list[list[int]]:
    params = SamplingParams(max_tokens=LENGTH, temperature=0, ignore_eos=True)
    with LLM(
        "ellm-base", memory="256MiB", dtype="float32", max_num_seqs=1, threads=1, max_model_len=256
    ) as llm:
        asked = [{"prompt_token_ids": prompt} for prompt in prompts()]
        answers = llm.generate(asked, params, use_tqdm=False)
    return [list(answer.outputs[0].token_ids) for answer in answers]


async def served(url: str) -> list[list[int]]:
    async def one(client: httpx.AsyncClient, prompt: list[int]) -> list[int]:
        body = {
            "prompt": prompt,
            "max_tokens": LENGTH,
            "temperature": 0,
            "ignore_eos": True,
            "return_token_ids": True,
        }
        answer = await client.post("/v1/completions", json=body)
        assert answer.status_code == 200, answer.text
        return list(answer.json()["choices"][0]["token_ids"])

    limits = httpx.Limits(max_connections=COUNT)
    async with httpx.AsyncClient(base_url=url, limits=limits, timeout=120) as client:
        return await asyncio.gather(*(one(client, prompt) for prompt in prompts()))


def test_served_words_are_those_of_a_request_left_alone(url: str) -> None:
    assert asyncio.run(served(url)) == alone()
