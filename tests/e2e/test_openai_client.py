"""The `openai` package, validating strictly, finds what it expects."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import openai
import pytest
from harness import running
from scripted import ScriptedLLM

HELLO = [{"role": "user", "content": "hello"}]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with running(ScriptedLLM()) as url:
        yield url


@pytest.fixture
def client(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(
        base_url=f"{url}/v1", api_key="none", max_retries=0, _strict_response_validation=True
    ) as client:
        yield client


def test_models_name_the_context(client: openai.OpenAI) -> None:
    [model] = client.models.list().data
    assert (model.id, model.object) == ("scripted", "model")
    assert model.to_dict()["max_model_len"] == 512
    assert client.models.retrieve("scripted").id == "scripted"


def test_chat(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="scripted", messages=HELLO, max_tokens=5)
    [choice] = answer.choices
    assert (choice.message.role, choice.message.content) == ("assistant", "abcde")
    assert choice.finish_reason == "length"
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == len("user: hello\nassistant:")
    assert answer.usage.completion_tokens == 5
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 5


def test_chat_may_fill_the_context(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="scripted", messages=HELLO)
    assert answer.usage is not None
    assert answer.usage.total_tokens == 512


def test_chat_with_choices_and_logprobs(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="scripted",
        messages=HELLO,
        max_completion_tokens=3,
        n=2,
        logprobs=True,
        top_logprobs=2,
        seed=7,
        user="someone",
        extra_body={"metadata": {"a": "b"}, "store": False, "not_a_field": [1, 2]},
    )
    assert [choice.index for choice in answer.choices] == [0, 1]
    for choice in answer.choices:
        assert choice.logprobs is not None
        assert choice.logprobs.content is not None
        assert [entry.token for entry in choice.logprobs.content] == ["a", "b", "c"]
        best = choice.logprobs.content[0].top_logprobs
        assert [(entry.token, entry.bytes) for entry in best] == [("a", [97]), ("b", [98])]


def test_streamed_chat_says_the_same(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model="scripted",
        messages=HELLO,
        max_tokens=5,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    assert chunks[0].choices[0].delta.role == "assistant"
    texts = [chunk.choices[0].delta.content or "" for chunk in chunks[:-1]]
    assert "".join(texts) == "abcde"
    reasons = [chunk.choices[0].finish_reason for chunk in chunks[:-1]]
    assert reasons == [None] * (len(reasons) - 1) + ["length"]
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 5
    assert len({chunk.id for chunk in chunks}) == 1


def test_streamed_chat_with_two_choices(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model="scripted", messages=HELLO, max_tokens=4, n=2, stream=True
    )
    texts = {0: "", 1: ""}
    for chunk in stream:
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
    assert texts == {0: "abcd", 1: "abcd"}


def test_completion(client: openai.OpenAI) -> None:
    answer = client.completions.create(model="scripted", prompt="once")
    [choice] = answer.choices
    assert choice.text == "abcdefghijabcdef"  # 16 tokens unless told otherwise
    assert choice.finish_reason == "length"
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == 4


def test_completion_of_a_batch(client: openai.OpenAI) -> None:
    answer = client.completions.create(
        model="scripted", prompt=["one", "three"], max_tokens=2, n=2, logprobs=1
    )
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    assert [choice.text for choice in answer.choices] == ["ab"] * 4
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (8, 8)
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.tokens == ["a", "b"]
    assert logprobs.text_offset == [0, 1]


def test_streamed_completion(url: str) -> None:
    # Not strictly: the package's type forbids the null finish_reason that OpenAI itself streams.
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none") as lenient:
        stream = lenient.completions.create(model="scripted", prompt="x", max_tokens=3, stream=True)
        assert "".join(chunk.choices[0].text for chunk in stream) == "abc"


def test_async_client_with_many_at_once(url: str) -> None:
    async def ask() -> list[str]:
        async with openai.AsyncOpenAI(
            base_url=f"{url}/v1", api_key="none", _strict_response_validation=True
        ) as client:

            async def one(length: int) -> str:
                stream = await client.chat.completions.create(
                    model="scripted", messages=HELLO, max_tokens=length, stream=True
                )
                return "".join([c.choices[0].delta.content or "" async for c in stream])

            return await asyncio.gather(*(one(length) for length in range(1, 21)))

    script = "abcdefghij" * 2
    assert asyncio.run(ask()) == [script[:length] for length in range(1, 21)]


def test_errors_have_their_classes(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="not served") as unknown:
        client.chat.completions.create(model="gpt-0", messages=HELLO)
    assert (unknown.value.param, unknown.value.code) == ("model", "model_not_found")
    with pytest.raises(openai.BadRequestError, match="temperature") as wrong:
        client.chat.completions.create(model="scripted", messages=HELLO, temperature=-1)
    assert wrong.value.param == "temperature"
