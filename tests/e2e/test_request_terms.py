"""Priority, objectives and cache salt of a request, as they reach the engine."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from scripted import ScriptedLLM
from serving import running

from ellm.core.objectives import Objectives

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
ASK: dict[str, dict[str, Any]] = {
    CHAT: {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 1},
    TEXT: {"prompt": ["a", "b"], "max_tokens": 1},
}


@pytest.fixture(scope="module")
def llm() -> ScriptedLLM:
    return ScriptedLLM()


@pytest.fixture(scope="module")
def url(llm: ScriptedLLM) -> Iterator[str]:
    with running(llm) as url:
        yield url


@pytest.mark.parametrize("path", ASK)
@pytest.mark.parametrize(
    ("given", "objectives", "salt", "priority"),
    [
        ({}, None, None, 0),
        ({"ttft_slo_ms": 250}, Objectives(ttft=0.25), None, 0),
        ({"tpot_slo_ms": 12.5, "priority": -3}, Objectives(tpot=0.0125), None, -3),
        (
            {"ttft_slo_ms": 500, "tpot_slo_ms": 50, "cache_salt": "tenant"},
            Objectives(ttft=0.5, tpot=0.05),
            "tenant",
            0,
        ),
        ({"ttft_slo_ms": None, "tpot_slo_ms": None, "cache_salt": None}, None, None, 0),
    ],
)
def test_they_reach_the_engine(
    url: str,
    llm: ScriptedLLM,
    path: str,
    given: dict[str, Any],
    objectives: Objectives | None,
    salt: str | None,
    priority: int,
) -> None:
    for stream in (False, True):
        llm.terms.clear()
        llm.seen.clear()
        response = httpx.post(url + path, json=ASK[path] | given | {"stream": stream})
        assert response.status_code == 200
        assert set(llm.terms) == {(objectives, salt)}
        assert {seen[3] for seen in llm.seen} == {priority}
        assert len(llm.seen) == len(ASK[path].get("prompt", [1]))


@pytest.mark.parametrize("path", ASK)
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("ttft_slo_ms", 0),
        ("ttft_slo_ms", -5),
        ("tpot_slo_ms", "50ms"),
        ("tpot_slo_ms", True),
        ("cache_salt", ""),
        ("cache_salt", 5),
        ("priority", 1.5),
    ],
)
def test_what_they_cannot_be(url: str, path: str, field: str, value: object) -> None:
    response = httpx.post(url + path, json=ASK[path] | {field: value})
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["param"] == field
    assert error["message"].startswith(f"{field}: ")


def test_infinity_is_no_objective(url: str) -> None:
    body = b'{"prompt": "a", "ttft_slo_ms": 1e999}'
    headers = {"content-type": "application/json"}
    response = httpx.post(url + TEXT, content=body, headers=headers)
    assert (response.status_code, response.json()["error"]["param"]) == (400, "ttft_slo_ms")


def test_the_openai_client_sends_them_as_extras(url: str, llm: ScriptedLLM) -> None:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none") as client:
        client.completions.create(
            model="scripted", prompt="a", extra_body={"ttft_slo_ms": 80, "cache_salt": "x"}
        )
    assert llm.terms[-1] == (Objectives(ttft=0.08), "x")
