"""Stopping: running work ends well, new work is sent elsewhere, a second signal means it."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from scripted import ScriptedLLM
from serving import eventually, post_and_keep, running_server

from ellm.core.errors import ConfigError
from ellm.server.serve import bind
from ellm.server.settings import ServerSettings

BODY = {"prompt": "a", "max_tokens": 100}
SCRIPT = Path(__file__).with_name("scripted.py")


def test_running_work_ends_and_new_work_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    llm = ScriptedLLM(step=0.01)
    with running_server(llm, shutdown_timeout=30.0) as (url, server):
        answers: list[httpx.Response] = []

        def ask(stream: bool) -> None:
            body = BODY | {"stream": stream}
            answers.append(httpx.post(url + "/v1/completions", json=body))

        asking = [threading.Thread(target=ask, args=(stream,)) for stream in (False, True)]
        for thread in asking:
            thread.start()
        eventually(lambda: len(llm.running) == 2)
        server.stop()
        for path in ("/v1/completions", "/v1/chat/completions"):
            messages = [{"role": "user", "content": "q"}]
            refused = httpx.post(url + path, json=BODY | {"messages": messages})
            assert refused.status_code == 503
            assert refused.json()["error"]["code"] == "shutting_down"
            assert "retry-after" in refused.headers
        assert httpx.get(url + "/health").status_code == 503
        for thread in asking:
            thread.join()
        assert [answer.status_code for answer in answers] == [200, 200]
        assert len(llm.finished) == 2
        eventually(lambda: server.should_exit)
    said = "stopping: 30 s for 2 requests to finish; another signal stops at once"
    assert caplog.messages == [said]


def test_work_that_takes_too_long_is_told(caplog: pytest.LogCaptureFixture) -> None:
    llm = ScriptedLLM(step=0.02, max_model_len=1 << 20)
    with running_server(llm, shutdown_timeout=0.2) as (url, server):
        answers: dict[bool, httpx.Response] = {}

        def ask(stream: bool) -> None:
            body = BODY | {"stream": stream, "max_tokens": 10**6}
            answers[stream] = httpx.post(url + "/v1/completions", json=body)

        asking = [threading.Thread(target=ask, args=(stream,)) for stream in (False, True)]
        for thread in asking:
            thread.start()
        eventually(lambda: len(llm.running) == 2)
        server.stop()
        for thread in asking:
            thread.join()
        assert answers[False].status_code == 503
        assert answers[False].json()["error"]["code"] == "shutting_down"
        events = answers[True].text.strip().split("\n\n")
        assert json.loads(events[-2].removeprefix("data: "))["error"]["code"] == "shutting_down"
        assert len(llm.aborted) == 2
    assert caplog.messages[-1] == "stopping: aborted 2 requests"


@contextmanager
def process(patience: float, step: float) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = [sys.executable, str(SCRIPT), str(port), str(patience), str(step)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            line = server.stdout.readline()
            assert line == f"eLLM serves scripted on http://127.0.0.1:{port}\n"
            yield f"http://127.0.0.1:{port}", server
        finally:
            server.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_running_work_finish(number: signal.Signals) -> None:
    with process(patience=30.0, step=0.01) as (url, server):
        with httpx.stream("POST", url + "/v1/completions", json=BODY | {"stream": True}) as answer:
            lines = answer.iter_lines()
            next(lines)
            server.send_signal(number)
            assert [line for line in lines if line][-1] == "data: [DONE]"
        assert server.wait(10) == 0
        assert server.stdout is not None
        assert server.stdout.read() == "closed\n"


def test_a_second_signal_ends_it_at_once() -> None:
    body = json.dumps(BODY).encode()
    with (
        process(patience=300.0, step=1.0) as (url, server),
        post_and_keep(url, "/v1/completions", body),
    ):
        eventually(lambda: httpx.get(url + "/load").json() == {"server_load": 1})
        server.send_signal(signal.SIGTERM)
        eventually(lambda: httpx.get(url + "/health").status_code == 503)

        def ended() -> bool:
            server.send_signal(signal.SIGTERM)
            return server.poll() is not None

        eventually(ended)
        assert server.returncode == 128 + signal.SIGTERM


def test_an_echo_of_the_signal_is_not_a_second_one() -> None:
    with process(patience=30.0, step=0.01) as (url, server):
        with httpx.stream("POST", url + "/v1/completions", json=BODY | {"stream": True}) as answer:
            lines = answer.iter_lines()
            next(lines)
            # Of different kinds, or the system may deliver them as one.
            server.send_signal(signal.SIGTERM)
            server.send_signal(signal.SIGINT)
            assert [line for line in lines if line][-1] == "data: [DONE]"
        assert server.wait(10) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_idle_server_stops_at_once_from_the_banner_on(number: signal.Signals) -> None:
    with process(patience=300.0, step=0.0) as (_, server):
        server.send_signal(number)
        assert server.wait(5) == 0
        assert server.stdout is not None
        assert server.stdout.read() == "closed\n"


def test_a_taken_port_is_found_before_serving(tmp_path: Path) -> None:
    with bind(ServerSettings(port=0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"cannot listen on 127.0.0.1:{port}.*--port"):
            bind(ServerSettings(port=port))
    path = str(tmp_path / "socket")
    with bind(ServerSettings(uds=path)), pytest.raises(ConfigError, match="--uds"):
        bind(ServerSettings(uds=path))
    with bind(ServerSettings(uds=path)):  # what a killed server left behind is in nobody's way
        pass
