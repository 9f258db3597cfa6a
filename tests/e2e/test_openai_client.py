"""The `openai` package, validating strictly, against the bundled model."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam

from ellm.core.sampling import SamplingParams
from ellm.llm.async_llm import AsyncLLM

MODEL = "ellm-base"
ASK: list[ChatCompletionMessageParam] = [
    {"role": "user", "content": "Return the larger of two numbers."}
]


@pytest.fixture
def client(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(
        base_url=f"{url}/v1", api_key="none", max_retries=0, _strict_response_validation=True
    ) as client:
        yield client


def greedy(llm: AsyncLLM, prompt: str | list[int], tokens: int) -> str:
    """What the engine itself says, without a server."""

    async def run() -> str:
        params = SamplingParams(temperature=0.0, max_tokens=tokens)
        text = ""
        async for output in llm.generate(prompt, params, "reference"):
            text = output.outputs[0].text
        return text

    return asyncio.run(run())


def chat_ids(llm: AsyncLLM) -> list[int]:
    messages = [{"role": "user", "content": "Return the larger of two numbers."}]
    text = llm.tokenizer.apply_chat_template(messages)
    return llm.tokenizer.encode(text, add_special_tokens=False)


def test_models_name_the_context(client: openai.OpenAI) -> None:
    [model] = client.models.list().data
    assert (model.id, model.object) == (MODEL, "model")
    assert model.to_dict()["max_model_len"] == 2048
    assert client.models.retrieve(MODEL).id == MODEL


def test_chat(client: openai.OpenAI, bundled: AsyncLLM) -> None:
    answer = client.chat.completions.create(model=MODEL, messages=ASK, max_tokens=12, temperature=0)
    [choice] = answer.choices
    ids = chat_ids(bundled)
    assert (choice.message.role, choice.message.content) == ("assistant", greedy(bundled, ids, 12))
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == len(ids)
    assert answer.usage.completion_tokens <= 12
    assert choice.finish_reason == ("length" if answer.usage.completion_tokens == 12 else "stop")


def test_chat_with_choices_and_logprobs(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model=MODEL,
        messages=ASK,
        max_completion_tokens=4,
        n=3,
        logprobs=True,
        top_logprobs=2,
        seed=7,
        user="someone",
        extra_body={
            "metadata": {"a": "b"},
            "store": False,
            "not_a_field": [1, 2],
            "ignore_eos": True,
        },
    )
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    for choice in answer.choices:
        assert choice.logprobs is not None
        assert choice.logprobs.content is not None
        assert "".join(e.token for e in choice.logprobs.content) == choice.message.content
        for entry in choice.logprobs.content:
            best = [top.logprob for top in entry.top_logprobs]
            assert len(best) == 2
            assert best == sorted(best, reverse=True)
            assert entry.logprob <= best[0] <= 0
            assert bytes(entry.bytes or []).decode() == entry.token


def test_a_seed_repeats_itself(client: openai.OpenAI) -> None:
    texts = {
        client.completions.create(model=MODEL, prompt="def ", seed=11, max_tokens=8).choices[0].text
        for _ in range(3)
    }
    assert len(texts) == 1


def test_streamed_chat_says_the_same(client: openai.OpenAI, bundled: AsyncLLM) -> None:
    stream = client.chat.completions.create(
        model=MODEL,
        messages=ASK,
        max_tokens=12,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    assert chunks[0].choices[0].delta.role == "assistant"
    texts = [chunk.choices[0].delta.content or "" for chunk in chunks[:-1]]
    assert "".join(texts) == greedy(bundled, chat_ids(bundled), 12)
    reasons = [chunk.choices[0].finish_reason for chunk in chunks[:-1]]
    assert reasons[:-1] == [None] * (len(reasons) - 1)
    assert reasons[-1] in ("length", "stop")
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.prompt_tokens == len(chat_ids(bundled))
    assert len({chunk.id for chunk in chunks}) == 1


def test_completion_of_a_batch(client: openai.OpenAI, bundled: AsyncLLM) -> None:
    prompts = ["def add(a, b):", "import "]
    answer = client.completions.create(
        model=MODEL, prompt=prompts, max_tokens=6, n=2, temperature=0, logprobs=1
    )
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    expected = [greedy(bundled, prompt, 6) for prompt in prompts for _ in range(2)]
    assert [choice.text for choice in answer.choices] == expected
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == sum(len(bundled.tokenizer.encode(p)) for p in prompts)


def test_streamed_completion(url: str, bundled: AsyncLLM) -> None:
    # Not strictly: the package's type forbids the null finish_reason that OpenAI itself streams.
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none") as lenient:
        stream = lenient.completions.create(
            model=MODEL, prompt="for i in", max_tokens=9, temperature=0, stream=True
        )
        text = "".join(chunk.choices[0].text for chunk in stream)
    assert text == greedy(bundled, "for i in", 9)


def test_a_stop_string_ends_it(client: openai.OpenAI, bundled: AsyncLLM) -> None:
    whole = greedy(bundled, "import os", 16)
    stop = whole[len(whole) // 2 :][:3]
    answer = client.completions.create(
        model=MODEL, prompt="import os", max_tokens=16, temperature=0, stop=stop
    )
    [choice] = answer.choices
    assert choice.text == whole[: whole.index(stop)]
    assert choice.finish_reason == "stop"
    assert choice.to_dict()["stop_reason"] == stop


def test_async_client_with_many_at_once(url: str, bundled: AsyncLLM) -> None:
    """Whatever shares its batch, a request's greedy text is its own."""
    prompts = [f"def f{place}(x):\n    return" for place in range(24)]

    async def ask() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none") as client:

            async def one(place: int) -> str:
                if place % 2:
                    answer = await client.completions.create(
                        model=MODEL, prompt=prompts[place], max_tokens=8, temperature=0
                    )
                    return answer.choices[0].text
                stream = await client.completions.create(
                    model=MODEL, prompt=prompts[place], max_tokens=8, temperature=0, stream=True
                )
                return "".join([chunk.choices[0].text async for chunk in stream])

            return await asyncio.gather(*(one(place) for place in range(len(prompts))))

    assert asyncio.run(ask()) == [greedy(bundled, prompt, 8) for prompt in prompts]


def test_errors_have_their_classes(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="not served") as unknown:
        client.chat.completions.create(model="gpt-0", messages=ASK)
    assert (unknown.value.param, unknown.value.code) == ("model", "model_not_found")
    with pytest.raises(openai.BadRequestError, match="temperature") as wrong:
        client.chat.completions.create(model=MODEL, messages=ASK, temperature=-1)
    assert wrong.value.param == "temperature"
    with pytest.raises(openai.BadRequestError, match="2048") as long:
        client.completions.create(model=MODEL, prompt="x y " * 3000)
    assert long.value.code == "context_length_exceeded"
