"""Every kind of nonsense gets a 4xx in OpenAI's shape and harms nobody else."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from scripted import ScriptedLLM
from serving import running

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
JSON = {"content-type": "application/json"}
HELLO = [{"role": "user", "content": "hello"}]


@pytest.fixture(scope="module")
def http() -> Iterator[httpx.Client]:
    llm = ScriptedLLM()
    with running(llm, max_body_bytes=200_000) as url, httpx.Client(base_url=url) as http:
        yield http
        assert not llm.running
        assert not llm.waiting


def refuse(response: httpx.Response, status: int, param: str | None) -> str:
    assert response.status_code == status, response.text
    body = response.json()
    assert list(body) == ["error"]
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert body["error"]["param"] == param
    message = body["error"]["message"]
    assert isinstance(message, str)
    assert 0 < len(message) <= 1001
    assert "Traceback" not in message
    return message


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "prompt"),
        ({"prompt": None}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [[]]}, "prompt"),
        ({"prompt": [""]}, "prompt"),
        ({"prompt": 7}, "prompt"),
        ({"prompt": {"a": 1}}, "prompt"),
        ({"prompt": [1.5]}, "prompt"),
        ({"prompt": [True]}, "prompt"),
        ({"prompt": ["a", 1]}, "prompt"),
        ({"prompt": [["a"]]}, "prompt"),
        ({"prompt": [-1]}, "prompt"),
        ({"prompt": [257]}, "prompt"),
        ({"prompt": [10**30]}, "prompt"),
        ({"prompt": ["a"] * 5000}, "prompt"),
        ({"prompt": "\ud800"}, "prompt"),
        ({"prompt": ["a"] * 100, "n": 100}, "n"),
        ({"prompt": "a", "max_tokens": 0}, "max_tokens"),
        ({"prompt": "a", "max_tokens": -5}, "max_tokens"),
        ({"prompt": "a", "max_tokens": 10**40}, "max_tokens"),
        ({"prompt": "a", "max_tokens": "5"}, "max_tokens"),
        ({"prompt": "a", "max_tokens": 5.5}, "max_tokens"),
        ({"prompt": "a", "max_tokens": True}, "max_tokens"),
        ({"prompt": "a", "temperature": -0.1}, "temperature"),
        ({"prompt": "a", "temperature": 1e300}, "temperature"),
        ({"prompt": "a", "temperature": "hot"}, "temperature"),
        ({"prompt": "a", "temperature": [1]}, "temperature"),
        ({"prompt": "a", "top_p": 0}, "top_p"),
        ({"prompt": "a", "top_p": 1.5}, "top_p"),
        ({"prompt": "a", "top_k": -2}, "top_k"),
        ({"prompt": "a", "min_p": 2}, "min_p"),
        ({"prompt": "a", "repetition_penalty": 0}, "repetition_penalty"),
        ({"prompt": "a", "presence_penalty": 3}, "presence_penalty"),
        ({"prompt": "a", "n": 0}, "n"),
        ({"prompt": "a", "n": 10**6}, "n"),
        ({"prompt": "a", "seed": 2**70}, "seed"),
        ({"prompt": "a", "seed": "x"}, "seed"),
        ({"prompt": "a", "stop": [""]}, "stop"),
        ({"prompt": "a", "stop": ["x"] * 1000}, "stop"),
        ({"prompt": "a", "stop": [1]}, "stop"),
        ({"prompt": "a", "stop": {"a": 1}}, "stop"),
        ({"prompt": "a", "stop_token_ids": [-1]}, "stop_token_ids"),
        ({"prompt": "a", "stop_token_ids": list(range(999))}, "stop_token_ids"),
        ({"prompt": "a", "logprobs": -1}, "logprobs"),
        ({"prompt": "a", "logprobs": 10**9}, "logprobs"),
        ({"prompt": "a", "logprobs": True}, "logprobs"),
        ({"prompt": "a", "prompt_logprobs": -7}, "prompt_logprobs"),
        ({"prompt": "a", "prompt_logprobs": 1, "stream": True}, "prompt_logprobs"),
        ({"prompt": "a", "logit_bias": {"x": 1}}, "logit_bias"),
        ({"prompt": "a", "logit_bias": {"1": 1000}}, "logit_bias"),
        ({"prompt": "a", "logit_bias": [1]}, "logit_bias"),
        ({"prompt": "a", "min_tokens": 99}, "min_tokens"),
        ({"prompt": "a", "truncate_prompt_tokens": 0}, "truncate_prompt_tokens"),
        ({"prompt": "a", "truncate_prompt_tokens": -2}, "truncate_prompt_tokens"),
        ({"prompt": "a", "stream": "yes"}, "stream"),
        ({"prompt": "a", "stream_options": {"include_usage": True}}, "stream_options"),
        (
            {"prompt": "a", "stream": True, "stream_options": {"include_usage": 3}},
            "stream_options.include_usage",
        ),
        ({"prompt": "a", "best_of": 3}, "best_of"),
        ({"prompt": "a", "suffix": "b"}, "suffix"),
        ({"prompt": "a", "echo": "loud"}, "echo"),
        ({"prompt": "a", "request_id": "\ud800"}, "request_id"),
        ({"prompt": "a", "request_id": "x" * 999}, "request_id"),
        ({"prompt": "a", "priority": "high"}, "priority"),
        ({"prompt": "a", "use_beam_search": True}, "use_beam_search"),
        ({"prompt": "a", "bad_words": ["x"]}, "bad_words"),
        ({"prompt": "a", "model": 3}, "model"),
    ],
)
def test_completions(http: httpx.Client, body: dict[str, Any], param: str) -> None:
    message = refuse(post(http, TEXT, body), 400, param)
    assert param.split(".")[0] in message


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "messages"),
        ({"messages": None}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": "hello"}, "messages"),
        ({"messages": ["hello"]}, "messages.0"),
        ({"messages": [{}]}, "messages.0.role"),
        ({"messages": [{"role": "user"}]}, "messages.0.content"),
        ({"messages": [{"role": "user", "content": 3}]}, "messages.0.content"),
        ({"messages": [{"role": 1, "content": "a"}]}, "messages.0.role"),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, "prompt"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            "messages.0.content.0",
        ),
        ({"messages": [{"role": "wizard", "content": "a"}]}, "messages.0.role"),
        ({"messages": HELLO, "top_logprobs": 2}, "top_logprobs"),
        ({"messages": HELLO, "logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"messages": HELLO, "logprobs": 3}, "logprobs"),
        ({"messages": HELLO, "max_completion_tokens": 0}, "max_tokens"),
        ({"messages": HELLO, "max_completion_tokens": "9"}, "max_completion_tokens"),
        ({"messages": HELLO, "tools": [{"type": "function"}]}, "tools"),
        ({"messages": HELLO, "functions": [{"name": "f"}]}, "functions"),
        ({"messages": HELLO, "response_format": {"type": "json_object"}}, "response_format"),
        ({"messages": HELLO, "structured_outputs": {"regex": "a"}}, "structured_outputs"),
        ({"messages": HELLO, "modalities": ["audio"]}, "modalities"),
        ({"messages": HELLO, "echo": True}, "echo"),
        ({"messages": HELLO, "chat_template": "{{ 1 }}"}, "chat_template"),
        ({"messages": HELLO, "chat_template_kwargs": 3}, "chat_template_kwargs"),
        (
            {"messages": HELLO, "chat_template_kwargs": {"messages": []}},
            "chat_template_kwargs",
        ),
        (
            {
                "messages": HELLO,
                "continue_final_message": True,
                "add_generation_prompt": True,
            },
            "continue_final_message",
        ),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_chats(http: httpx.Client, body: dict[str, Any], param: str, stream: bool) -> None:
    refuse(post(http, CHAT, body | {"stream": stream}), 400, param)


def test_a_part_that_is_not_text(http: httpx.Client) -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": "x"}}]
    body = {"messages": [*HELLO, {"role": "user", "content": parts}]}
    message = refuse(post(http, CHAT, body), 400, "messages.1.content.1")
    assert "'image_url'" in message
    assert "eLLM takes text only" in message


@pytest.mark.parametrize(
    ("prompt", "fault"),
    [
        ([1, "a"], "element 1 is text, but element 0 is a token id"),
        (["a", [1]], "element 1 is a list of token ids, but element 0 is text"),
        ([1.5], "element 0 is neither text nor token ids"),
        ([[1], [2, "a"]], "element 1 is neither text nor token ids"),
    ],
)
def test_the_prompt_at_fault_is_named(http: httpx.Client, prompt: list[Any], fault: str) -> None:
    assert fault in refuse(post(http, TEXT, {"prompt": prompt}), 400, "prompt")


def test_the_limit_on_choices_that_was_passed_is_named(http: httpx.Client) -> None:
    many = refuse(post(http, TEXT, {"prompt": ["a"] * 100, "n": 5000}), 400, "n")
    assert many == "n must be a whole number from 1 to 128, not 5000"
    total = refuse(post(http, TEXT, {"prompt": ["a"] * 100, "n": 100}), 400, "n")
    assert total == "n=100 for 100 prompts makes 10000 choices, at most 4096 in one request"


@pytest.mark.parametrize("path", [CHAT, TEXT, "/tokenize", "/detokenize"])
@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b"3",
        b'"text"',
        b"{'prompt': 'a'}",
        b'{"prompt": "\xff\xfe"}',
        b"\x00\x01\x02",
        b"[" * 100_000,
        b'{"a":' * 30_000,
        b'{"prompt": "a", "n": ' + b"9" * 5000 + b"}",
    ],
    ids=repr,
)
def test_bodies_that_are_no_request(http: httpx.Client, path: str, content: bytes) -> None:
    refuse(http.post(path, content=content, headers=JSON), 400, None)


@pytest.mark.parametrize("value", [b"NaN", b"Infinity", b"-Infinity", b"1e999"])
@pytest.mark.parametrize("name", ["temperature", "top_p", "min_p", "presence_penalty"])
def test_numbers_that_are_none(http: httpx.Client, name: str, value: bytes) -> None:
    body = b'{"prompt": "a", "%s": %s}' % (name.encode(), value)
    refuse(http.post(TEXT, content=body, headers=JSON), 400, name)


def test_a_body_of_another_type(http: httpx.Client) -> None:
    message = refuse(http.post(TEXT, content=b'{"prompt": "a"}'), 400, None)
    assert "Content-Type" in message


def test_a_body_too_large(http: httpx.Client) -> None:
    body = b'{"prompt": "' + b"a" * 200_000 + b'"}'
    refuse(http.post(TEXT, content=body, headers=JSON), 413, None)
    pieces = (body[i : i + 10_000] for i in range(0, len(body), 10_000))
    refuse(http.post(TEXT, content=pieces, headers=JSON), 413, None)


def test_a_prompt_longer_than_the_context(http: httpx.Client) -> None:
    for stream in (False, True):
        response = post(http, TEXT, {"prompt": "x" * 600, "stream": stream})
        message = refuse(response, 400, "prompt")
        assert "600" in message
        assert "512" in message
        assert response.json()["error"]["code"] == "context_length_exceeded"


def test_one_prompt_of_a_batch_that_is_wrong(http: httpx.Client) -> None:
    refuse(
        post(http, TEXT, {"prompt": ["fine", "x" * 600, "fine"], "max_tokens": 400}), 400, "prompt"
    )


@pytest.mark.parametrize("path", [CHAT, TEXT, "/tokenize", "/detokenize"])
def test_an_unknown_model(http: httpx.Client, path: str) -> None:
    body = {"model": "other", "prompt": "a", "messages": HELLO, "tokens": [1]}
    assert "scripted" in refuse(post(http, path, body), 404, "model")


def test_what_is_listed_is_there_and_needs_no_other_host(http: httpx.Client) -> None:
    listed = http.get("/").json()["endpoints"]
    assert "GET /openapi.json" in listed
    for path in (place.removeprefix("GET ") for place in listed if place.startswith("GET ")):
        answer = http.get(path.replace("{name}", "scripted"))
        assert answer.status_code == 200, path
        assert "<script" not in answer.text
    refuse(http.get("/docs"), 404, None)


def test_addresses_and_methods(http: httpx.Client) -> None:
    refuse(http.get("/v1/nothing"), 404, None)
    refuse(http.get("/v1/models/other"), 404, "model")
    refuse(http.get(TEXT), 405, None)
    assert http.get(TEXT).headers["allow"] == "POST"
    refuse(http.post("/v1/models"), 405, None)


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/tokenize", {}, "prompt"),
        ("/tokenize", {"prompt": "a", "messages": HELLO}, "prompt"),
        ("/tokenize", {"prompt": 3}, "prompt"),
        ("/tokenize", {"messages": []}, "messages"),
        ("/detokenize", {}, "tokens"),
        ("/detokenize", {"tokens": "abc"}, "tokens"),
        ("/detokenize", {"tokens": [1, -1]}, "tokens.1"),
        ("/detokenize", {"tokens": [257]}, "tokens.0"),
        ("/detokenize", {"tokens": [10**40]}, "tokens.0"),
    ],
)
def test_tokens(http: httpx.Client, path: str, body: dict[str, Any], param: str) -> None:
    refuse(post(http, path, body), 400, param)


def test_nonsense_does_not_disturb_others() -> None:
    with running(ScriptedLLM(step=0.01)) as url, httpx.Client(base_url=url) as http:
        answers: list[str] = []

        def ask() -> None:
            body = {"prompt": "a", "max_tokens": 60}
            answers.append(httpx.post(url + TEXT, json=body).json()["choices"][0]["text"])

        asking = [threading.Thread(target=ask) for _ in range(3)]
        for thread in asking:
            thread.start()
        for _ in range(10):
            refuse(http.post(TEXT, content=b"[" * 50_000, headers=JSON), 400, None)
            refuse(post(http, TEXT, {"prompt": [10**30]}), 400, "prompt")
            refuse(post(http, TEXT, {"prompt": "a", "n": -1}), 400, "n")
        for thread in asking:
            thread.join()
        assert answers == ["abcdefghij" * 6] * 3


def post(http: httpx.Client, path: str, body: dict[str, Any]) -> httpx.Response:
    return http.post(path, content=json.dumps(body).encode(), headers=JSON)
