"""What load generators and evaluation harnesses send, field by field."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from scripted import ScriptedLLM
from serving import running

LLM = ScriptedLLM(max_model_len=64)


@pytest.fixture(scope="module")
def http() -> Iterator[httpx.Client]:
    with running(LLM, trust_request_chat_template=True) as url, httpx.Client(base_url=url) as http:
        yield http


def complete(http: httpx.Client, **body: Any) -> dict[str, Any]:
    response = http.post("/v1/completions", json=body)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def events(http: httpx.Client, path: str, **body: Any) -> list[dict[str, Any]]:
    response = http.post(path, json={"stream": True, **body})
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith("text/event-stream")
    lines = response.text.split("\n\n")
    assert lines[-2:] == ["data: [DONE]", ""]
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-2]]


def ids(text: str) -> list[int]:
    return LLM.tokenizer.encode(text)


@pytest.mark.parametrize("limit", [0, 1])
def test_loglikelihood(http: httpx.Client, limit: int) -> None:
    """As lm-eval asks: prompts as token ids, echoed with scores, one token or none after."""
    [choice] = complete(
        http, prompt=[ids("hey")], echo=True, logprobs=1, max_tokens=limit, temperature=0, seed=1
    )["choices"]
    assert choice["text"] == "heya"[: 3 + limit]
    scores = choice["logprobs"]
    assert scores["tokens"] == list("heya")[: 3 + limit]
    assert scores["token_logprobs"] == [None, -0.5, -0.5, -0.5][: 3 + limit]
    assert scores["top_logprobs"][:2] == [None, {"e": -0.5}]
    assert scores["text_offset"] == [0, 1, 2, 3][: 3 + limit]


def test_no_tokens_cost_nothing(http: httpx.Client) -> None:
    usage = complete(http, prompt="hey", echo=True, max_tokens=0)["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (3, 0)


def test_echo_without_scores(http: httpx.Client) -> None:
    [choice] = complete(http, prompt=ids("hey"), echo=True, max_tokens=2)["choices"]
    assert (choice["text"], choice["logprobs"]) == ("heyab", None)


def test_streamed_echo_says_the_same(http: httpx.Client) -> None:
    body = {"prompt": ["hey", "you"], "echo": True, "logprobs": 2, "max_tokens": 2, "n": 2}
    whole = complete(http, **body)["choices"]
    texts = [""] * 4
    scores: list[dict[str, list[Any]]] = [{} for _ in texts]
    for event in events(http, "/v1/completions", **body):
        for choice in event["choices"]:
            texts[choice["index"]] += choice["text"]
            for name, values in choice["logprobs"].items():
                scores[choice["index"]].setdefault(name, []).extend(values)
    assert texts == [choice["text"] for choice in whole] == ["heyab"] * 2 + ["youab"] * 2
    assert scores == [choice["logprobs"] for choice in whole]


def test_one_top_logprob_more_where_the_choice_is_not_among_them(http: httpx.Client) -> None:
    [choice] = complete(http, prompt="x", logprobs=0, max_tokens=1)["choices"]
    assert choice["logprobs"]["top_logprobs"] == [{"a": -0.5}]


def test_tokens_by_id(http: httpx.Client) -> None:
    [a] = ids("a")
    [choice] = complete(
        http, prompt="x", logprobs=1, max_tokens=1, return_tokens_as_token_ids=True
    )["choices"]
    assert choice["logprobs"]["tokens"] == [f"token_id:{a}"]
    assert choice["logprobs"]["top_logprobs"] == [{f"token_id:{a}": -0.5}]


def test_prompt_logprobs(http: httpx.Client) -> None:
    [choice] = complete(http, prompt="hey", prompt_logprobs=1, max_tokens=1)["choices"]
    [e] = ids("e")
    entry = {"logprob": -0.5, "rank": 1, "decoded_token": "e"}
    assert choice["prompt_logprobs"][:2] == [None, {str(e): entry}]
    assert len(choice["prompt_logprobs"]) == 3


def test_token_ids_come_back(http: httpx.Client) -> None:
    [choice] = complete(http, prompt="hey", max_tokens=2, return_token_ids=True)["choices"]
    assert (choice["prompt_token_ids"], choice["token_ids"]) == (ids("hey"), ids("ab"))
    chunks = events(http, "/v1/completions", prompt="hey", max_tokens=2, return_token_ids=True)
    assert chunks[0]["choices"][0]["prompt_token_ids"] == ids("hey")
    assert [t for c in chunks for t in c["choices"][0]["token_ids"]] == ids("ab")
    messages = [{"role": "user", "content": "q"}]
    body = {"messages": messages, "max_tokens": 2, "return_token_ids": True}
    answer = http.post("/v1/chat/completions", json=body).json()
    assert answer["prompt_token_ids"] == ids("user: q\nassistant:")
    assert answer["choices"][0]["token_ids"] == ids("ab")


def test_usage_in_every_chunk(http: httpx.Client) -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    for path, prompt in [
        ("/v1/completions", {"prompt": "hey"}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "hey"}]}),
    ]:
        chunks = events(http, path, max_tokens=3, ignore_eos=True, stream_options=options, **prompt)
        made = [chunk["usage"]["completion_tokens"] for chunk in chunks]
        assert made == sorted(made)
        assert made[-1] == 3
        assert chunks[-1]["choices"] == []
        assert all(chunk["choices"] for chunk in chunks[:-1])


def test_usage_is_null_until_the_last_chunk(http: httpx.Client) -> None:
    options = {"include_usage": True}
    chunks = events(http, "/v1/completions", prompt="hey", max_tokens=3, stream_options=options)
    assert [chunk["usage"] is None for chunk in chunks] == [True] * 3 + [False]
    silent = events(http, "/v1/completions", prompt="hey", max_tokens=3)
    assert not any("usage" in chunk for chunk in silent)


def test_content_parts_are_joined(http: httpx.Client) -> None:
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    body = {"messages": [{"role": "user", "content": parts}], "max_tokens": 1}
    assert http.post("/v1/chat/completions", json=body).status_code == 200
    assert LLM.seen[-1][1] == ids("user: one\ntwo\nassistant:")


def test_templates(http: httpx.Client) -> None:
    messages = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "well"}]
    body = {
        "messages": messages,
        "continue_final_message": True,
        "chat_template": "{{ mood }}{% for m in messages %}[{{ m.content }}]{% endfor %}",
        "chat_template_kwargs": {"mood": "glad"},
    }
    answer = http.post("/tokenize", json=body).json()
    assert answer["tokens"] == ids("glad[q][well")
    silent = {"messages": messages[:1], "add_generation_prompt": False}
    assert http.post("/tokenize", json=silent).json()["tokens"] == ids("user: q\n")


def test_extras_reach_the_engine(http: httpx.Client) -> None:
    extras = {
        "top_k": 5, "min_p": 0.1, "top_p": 0.9, "repetition_penalty": 1.1, "presence_penalty": 0.5,
        "frequency_penalty": -0.5, "stop_token_ids": [9], "include_stop_str_in_output": True,
        "ignore_eos": True, "min_tokens": 2, "skip_special_tokens": False, "seed": 3,
        "temperature": 0.5, "n": 2,
    }  # fmt: skip
    nulls = {"best_of": None, "stream_options": None, "tools": None, "suffix": None}
    complete(http, prompt="x", max_tokens=4, stop="zz", logit_bias={"7": -1}, priority=-3, **extras)
    complete(http, prompt="x", **dict.fromkeys(extras), **nulls)
    (_, _, params, priority), (_, _, plain, usual) = LLM.seen[-2:]
    assert (priority, usual) == (-3, 0)
    given = {name: getattr(params, name) for name in extras}
    assert given == extras | {"stop_token_ids": (9,)}
    assert (params.stop, params.logit_bias, params.max_tokens) == (("zz",), {7: -1.0}, 4)
    assert (plain.temperature, plain.top_k, plain.max_tokens, plain.n) == (1.0, 0, 16, 1)


def test_the_default_limit_leaves_room_for_the_prompt(http: httpx.Client) -> None:
    assert complete(http, prompt="x" * 60)["usage"]["completion_tokens"] == 4
    response = http.post("/v1/completions", json={"prompt": "x" * 60, "max_tokens": 16})
    assert (response.status_code, response.json()["error"]["param"]) == (400, "max_tokens")


def test_a_prompt_is_cut_only_when_asked(http: httpx.Client) -> None:
    long = "x" * 70 + "yz"
    assert http.post("/v1/completions", json={"prompt": long}).status_code == 400
    complete(http, prompt=long, truncate_prompt_tokens=2, max_tokens=1)
    assert LLM.seen[-1][1] == ids("yz")
    complete(http, prompt=long, truncate_prompt_tokens=-1, max_tokens=9)
    assert LLM.seen[-1][1] == ids(long)[-55:]


def test_there_and_back(http: httpx.Client) -> None:
    text = "naïve 🙂 text"
    answer = http.post("/tokenize", json={"prompt": text, "return_token_strs": True}).json()
    assert answer["count"] == len(answer["tokens"]) == len(text.encode())
    assert answer["max_model_len"] == 64
    assert answer["token_strs"][0] == "n"
    back = http.post("/detokenize", json={"tokens": answer["tokens"]}).json()
    assert back == {"prompt": text}


def test_request_ids_are_kept_and_may_repeat(http: httpx.Client) -> None:
    headers = {"x-request-id": "mine-1"}
    for _ in range(2):
        response = http.post("/v1/completions", json={"prompt": "x"}, headers=headers)
        assert response.headers["x-request-id"] == "mine-1"
        assert response.json()["id"] == "cmpl-mine-1"
    assert http.get("/nowhere", headers=headers).headers["x-request-id"] == "mine-1"
    assert len(http.get("/version").headers["x-request-id"]) == 32
    assert complete(http, prompt="x", request_id="body")["id"] == "cmpl-body"


def test_features_that_ask_for_nothing_are_taken(http: httpx.Client) -> None:
    body = {
        "messages": [{"role": "user", "content": "q", "name": "n"}],
        "max_tokens": 1,
        "tools": [{"type": "function", "function": {"name": "f"}}],
        "tool_choice": "none",
        "response_format": {"type": "text"},
        "modalities": ["text"],
        "parallel_tool_calls": True,
        "service_tier": "auto",
        "best_of": 1,
        "length_penalty": 1.0,
    }
    assert http.post("/v1/chat/completions", json=body).status_code == 200
