"""Full queues, engines that fail, and the truth about health."""

from __future__ import annotations

import json
import logging
from contextlib import ExitStack

import httpx
import pytest
from scripted import ScriptedLLM
from serving import eventually, post_and_keep, running

from ellm.core.errors import EngineDead

HELLO = [{"role": "user", "content": "hello"}]
CHAT = "/v1/chat/completions"


@pytest.mark.parametrize("stream", [False, True])
def test_a_full_queue_says_when_to_come_back(stream: bool) -> None:
    llm = ScriptedLLM(step=0.02, slots=1, queue=1, max_model_len=1 << 20)
    endless = json.dumps({"messages": HELLO, "max_tokens": 10**6}).encode()
    with running(llm) as url, ExitStack() as clients:
        clients.enter_context(post_and_keep(url, CHAT, endless))
        eventually(lambda: llm.running)
        clients.enter_context(post_and_keep(url, CHAT, endless))
        eventually(lambda: llm.waiting)
        response = httpx.post(url + CHAT, json={"messages": HELLO, "stream": stream})
        assert response.status_code == 503
        assert response.headers["retry-after"] == "2"
        assert response.json()["error"]["code"] == "queue_full"
        batch = {"prompt": ["a", "b"], "stream": stream}
        assert httpx.post(url + "/v1/completions", json=batch).status_code == 503
        assert httpx.get(url + "/load").json() == {"server_load": 2}
        assert httpx.get(url + "/health").status_code == 200


def test_health_is_a_round_trip() -> None:
    llm = ScriptedLLM()
    with running(llm, health_timeout=0.1) as url:
        assert httpx.get(url + "/health").status_code == 200
        assert httpx.get(url + "/ping").status_code == 200
        llm.hung = True
        response = httpx.get(url + "/health")
        assert (response.status_code, response.json()["error"]["code"]) == (503, "engine_dead")
        assert "not answered for 0.1 s" in response.json()["error"]["message"]
        llm.dead = True
        response = httpx.get(url + "/health")
        assert (response.status_code, response.json()["error"]["code"]) == (503, "engine_dead")
        assert "scripted" in response.json()["error"]["message"]


@pytest.mark.parametrize("stream", [False, True])
def test_a_dead_engine(stream: bool) -> None:
    with running(ScriptedLLM(dead=True)) as url:
        response = httpx.post(url + CHAT, json={"messages": HELLO, "stream": stream})
        assert (response.status_code, response.json()["error"]["code"]) == (503, "engine_dead")
        assert httpx.get(url + "/v1/models").status_code == 200


def test_a_death_in_the_middle() -> None:
    llm = ScriptedLLM(fault=EngineDead("the engine stopped"), fault_after=3)
    with running(llm) as url:
        body = {"prompt": ["a", "b"], "max_tokens": 9}
        assert httpx.post(url + "/v1/completions", json=body).status_code == 503
        response = httpx.post(url + CHAT, json={"messages": HELLO, "stream": True})
        assert response.status_code == 200
        events = response.text.strip().split("\n\n")
        assert events[-1] == "data: [DONE]"
        error = json.loads(events[-2].removeprefix("data: "))["error"]
        assert (error["code"], error["message"]) == ("engine_dead", "the engine stopped")
        said = [json.loads(event.removeprefix("data: ")) for event in events[:-2]]
        assert "".join(c["choices"][0]["delta"].get("content", "") for c in said) == "abc"
        assert not llm.running


def test_a_fault_of_ours_is_logged_and_not_shown(caplog: pytest.LogCaptureFixture) -> None:
    llm = ScriptedLLM(fault=ZeroDivisionError("secret detail"))
    with running(llm) as url, caplog.at_level(logging.ERROR, "ellm.server"):
        for stream in (False, True):
            headers = {"x-request-id": "mine"}
            body = {"messages": HELLO, "stream": stream}
            response = httpx.post(url + CHAT, json=body, headers=headers)
            assert response.status_code == 500
            assert response.headers["x-request-id"] == "mine"
            assert response.json()["error"]["type"] == "server_error"
            assert "secret" not in response.text
        assert "ZeroDivisionError: secret detail" in caplog.text
        llm.fault = None
        assert httpx.post(url + CHAT, json={"messages": HELLO}).status_code == 200


def test_requests_are_logged_when_asked(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "ellm.server"):
        for asked in (False, True):
            with running(ScriptedLLM(), enable_log_requests=asked) as url:
                for path in ("/version", "/health", "/metrics", "/nowhere"):
                    httpx.get(url + path)
    lines = [record.getMessage() for record in caplog.records if record.name == "ellm.server"]
    assert [line.split(" ")[:3] for line in lines] == [
        ["GET", "/version", "200"],
        ["GET", "/nowhere", "404"],
    ]
