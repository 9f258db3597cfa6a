"""When a client leaves, its work ends: streamed or not, queued or running."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from scripted import ScriptedLLM
from serving import eventually, post_and_keep, running

PATHS = ["/v1/chat/completions", "/v1/completions"]


@pytest.fixture(scope="module")
def llm() -> ScriptedLLM:
    return ScriptedLLM(step=0.02, slots=1, max_model_len=1 << 20)


@pytest.fixture(scope="module")
def url(llm: ScriptedLLM) -> Iterator[str]:
    with running(llm) as url:
        yield url


def endless(stream: bool) -> bytes:
    messages = [{"role": "user", "content": "q"}]
    body = {"prompt": "p", "messages": messages, "max_tokens": 10**6, "stream": stream}
    return json.dumps(body).encode()


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("stream", [False, True])
def test_running(llm: ScriptedLLM, url: str, path: str, stream: bool) -> None:
    before = len(llm.aborted)
    client = post_and_keep(url, path, endless(stream))
    eventually(lambda: llm.running)
    if stream:
        assert client.recv(15) == b"HTTP/1.1 200 OK"
    client.close()
    eventually(lambda: len(llm.aborted) == before + 1)
    assert not llm.running


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("stream", [False, True])
def test_queued(llm: ScriptedLLM, url: str, path: str, stream: bool) -> None:
    before = len(llm.aborted)
    blocker = post_and_keep(url, path, endless(True))
    eventually(lambda: llm.running)
    client = post_and_keep(url, path, endless(stream))
    eventually(lambda: llm.waiting)
    client.close()
    eventually(lambda: not llm.waiting)
    assert len(llm.aborted) == before + 1
    blocker.close()
    eventually(lambda: not llm.running)


@pytest.mark.parametrize("stream", [False, True])
def test_every_prompt_of_a_batch(llm: ScriptedLLM, url: str, stream: bool) -> None:
    before = len(llm.aborted)
    body = {"prompt": ["a", "b", "c"], "max_tokens": 10**6, "stream": stream}
    client = post_and_keep(url, "/v1/completions", json.dumps(body).encode())
    eventually(lambda: len(llm.running) + len(llm.waiting) == 3)
    client.close()
    eventually(lambda: len(llm.aborted) == before + 3)
    assert not llm.running
    assert not llm.waiting


def test_a_half_sent_request_starts_nothing(llm: ScriptedLLM, url: str) -> None:
    before = len(llm.seen)
    client = post_and_keep(url, "/v1/completions", b"")
    client.sendall(b"POST /v1/completions HTTP/1.1\r\nContent-Length: 1000\r\n\r\n{")
    client.close()
    client = post_and_keep(url, "/v1/completions", b'{"prompt": "a", "max_tokens": 1}')
    assert client.recv(15) == b"HTTP/1.1 200 OK"
    client.close()
    assert len(llm.seen) == before + 1
