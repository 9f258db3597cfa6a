"""The load client against a server that plays a script."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from ellm.cli.bench.client import Endpoint, Outcome, Target
from ellm.cli.bench.load import apply_load, find_model
from ellm.cli.bench.question import Question
from ellm.cli.main import run
from ellm.core.errors import ConfigError

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

ROLE = {"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]}
USAGE = {"choices": [], "usage": {"prompt_tokens": 2, "completion_tokens": 3}}


def words(endpoint: Endpoint) -> list[dict[str, object]]:
    if endpoint is Endpoint.CHAT:
        deltas = [{"content": "a"}, {"content": ""}, {"content": "c"}]
        return [ROLE, *({"choices": [{"delta": delta}]} for delta in deltas)]
    return [{"choices": [{"text": text}]} for text in ("a", "", "c")]


class ScriptedServer:
    """Answers each POST with the next script: a status, or events that end a stream."""

    def __init__(self, scripts: list[int | list[object]]) -> None:
        self.scripts = scripts
        self.bodies: list[dict[str, object]] = []
        self.active = 0
        self.most_active = 0

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        if head.startswith(b"GET /v1/models"):
            self.send(writer, 200, b'{"data": [{"id": "scripted"}]}')
        else:
            length = next(
                int(line.split(b":")[1])
                for line in head.split(b"\r\n")
                if line.lower().startswith(b"content-length")
            )
            self.bodies.append(json.loads(await reader.readexactly(length)))
            self.active += 1
            self.most_active = max(self.most_active, self.active)
            await asyncio.sleep(0.01)
            script = self.scripts[(len(self.bodies) - 1) % len(self.scripts)]
            if isinstance(script, int):
                self.send(writer, script, b'{"error": {"message": "no"}}')
            else:
                events = b"".join(f"data: {json.dumps(event)}\n\n".encode() for event in script)
                self.send(writer, 200, b": a comment\n\n" + events + b"data: [DONE]\n\n")
            self.active -= 1
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    @staticmethod
    def send(writer: asyncio.StreamWriter, status: int, body: bytes) -> None:
        head = f"HTTP/1.1 {status} x\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        writer.write(head.encode() + body)


async def load(
    server: ScriptedServer, endpoint: Endpoint, count: int, limit: int | None = None
) -> list[Outcome]:
    async with await asyncio.start_server(server, "127.0.0.1", 0) as listening:
        port = listening.sockets[0].getsockname()[1]
        url = f"http://127.0.0.1:{port}"
        models = (await find_model(url, None),)
        target = Target(url, models, endpoint, api_key="secret")
        items = [Question((5, 6), 3)] * count
        outcomes, duration = await apply_load(target, items, limit, lambda: None)
    assert duration > 0
    return outcomes


@pytest.mark.parametrize("endpoint", Endpoint)
def test_a_stream_is_timed_token_by_token(endpoint: Endpoint) -> None:
    server = ScriptedServer([[*words(endpoint), USAGE]])
    (outcome,) = asyncio.run(load(server, endpoint, 1))
    assert outcome.error is None
    assert outcome.status == 200
    assert (outcome.prompt_tokens, outcome.output_tokens) == (2, 3)
    assert len(outcome.gaps) == 2  # the opening role is no token
    assert outcome.ttft >= 0.01
    assert outcome.latency == pytest.approx(outcome.ttft + sum(outcome.gaps))
    assert server.bodies[0]["model"] == "scripted"
    assert server.bodies[0]["stream_options"] == {"include_usage": True}


def test_failures_are_outcomes_with_their_status() -> None:
    broken = [words(Endpoint.COMPLETIONS)[0], {"error": {"message": "died"}}]
    server = ScriptedServer([503, broken, [USAGE], [*words(Endpoint.COMPLETIONS), USAGE]])
    outcomes = asyncio.run(load(server, Endpoint.COMPLETIONS, 4, limit=1))
    assert [outcome.status for outcome in outcomes] == [503, 200, 200, 200]
    assert [outcome.error is None for outcome in outcomes] == [False, False, False, True]
    assert "died" in (outcomes[1].error or "")


def test_concurrency_is_bounded_and_the_wait_is_told_apart() -> None:
    server = ScriptedServer([[*words(Endpoint.COMPLETIONS), USAGE]])
    outcomes = asyncio.run(load(server, Endpoint.COMPLETIONS, 6, limit=2))
    assert server.most_active == 2
    assert sum(outcome.queued > 0.005 for outcome in outcomes) == 4


def test_a_server_that_is_not_there_is_a_user_error() -> None:
    with pytest.raises(ConfigError, match=r"nothing answers at http://127\.0\.0\.1:1"):
        asyncio.run(find_model("http://127.0.0.1:1", None))


def test_the_command_prints_a_report_and_writes_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server = ScriptedServer([[*words(Endpoint.COMPLETIONS), USAGE]])

    async def drive() -> int:
        async with await asyncio.start_server(server, "127.0.0.1", 0) as listening:
            port = listening.sockets[0].getsockname()[1]
            argv = (
                f"bench serve --port {port} --num-prompts 5 --input-len 4 --output-len 3 "
                f"--ignore-eos --goodput ttft:60000 e2el:60000 --output-json {tmp_path}/out.json"
            )
            return await asyncio.to_thread(run, argv.split())

    assert asyncio.run(drive()) == 0
    out = capsys.readouterr().out
    assert "TTFT" in out
    assert "goodput" in out
    figures = json.loads((tmp_path / "out.json").read_text())
    assert figures["completed"] == 5
    assert figures["goodput"] == pytest.approx(figures["request_rate"])
    assert len(figures["requests"]) == 5
    assert figures["attainment"]["shares"] == {"ttft": 1.0, "e2el": 1.0, "all": 1.0}
    assert {each["model"] for each in figures["requests"]} == {"scripted"}
    assert all(each["sent"] >= 0 for each in figures["requests"])
    assert all(body["ignore_eos"] is True for body in server.bodies)


def test_load_is_spread_over_models_as_the_trace_says(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The sixth model of the trace is the second of two; the trace runs a hundred times faster."""
    trace = tmp_path / "prism.csv"
    rows = ["0.0,0,40,20", "2.0,5,80,20", "4.0,2,400,20"]
    trace.write_text("\n".join(["arrived_at_s,model_index,prompt_tokens,output_tokens", *rows]))
    server = ScriptedServer([[*words(Endpoint.COMPLETIONS), USAGE]])

    async def drive() -> int:
        async with await asyncio.start_server(server, "127.0.0.1", 0) as listening:
            port = listening.sockets[0].getsockname()[1]
            argv = (
                f"bench serve --port {port} --model one --model two --dataset-name trace "
                f"--dataset-path {trace} --scale-lengths 0.05 --rate-scale 100 --max-requests 3 "
                f"--goodput ttft:60000 tpot:0.000001 --output-json {tmp_path}/out.json"
            )
            return await asyncio.to_thread(run, argv.split())

    assert asyncio.run(drive()) == 0
    sent = {body["model"]: [] for body in server.bodies}
    for body in server.bodies:
        sent[body["model"]].append((len(body["prompt"]), body["max_tokens"]))
    assert sent == {"one": [(2, 1), (20, 1)], "two": [(4, 1)]}
    figures = json.loads((tmp_path / "out.json").read_text())
    assert (figures["model"], figures["rate_scale"]) == (["one", "two"], 100)
    assert figures["goodput"] == 0
    assert figures["attainment"]["shares"] == {"ttft": 1.0, "tpot": 0.0, "all": 0.0}
    assert figures["per_model"]["one"]["requests"] == 2
    assert figures["requests"][2]["sent"] >= 0.04
    table = capsys.readouterr().out.partition("model ")[2].splitlines()
    assert table[1].split() == ["one", "2", "2", "100.0", "0.0", "0.0"]
    assert table[2].split() == ["two", "1", "1", "100.0", "0.0", "0.0"]


@pytest.mark.parametrize("broken", [True, False])
def test_what_a_trace_has_to_warn_of_is_shown(
    broken: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file that breaks off, and the bundled trace, which does not."""
    trace = tmp_path / "broken"
    trace.write_text('{"prompt_tokens": 3, "output_tokens": 4}\n{"prompt_tok')
    server = ScriptedServer([[*words(Endpoint.COMPLETIONS), USAGE]])

    async def drive() -> int:
        async with await asyncio.start_server(server, "127.0.0.1", 0) as listening:
            port = listening.sockets[0].getsockname()[1]
            argv = (
                f"bench serve --port {port} --dataset-name trace --max-requests 5 "
                f"--dataset-path {trace if broken else 'chat'} --request-rate 1000"
            )
            return await asyncio.to_thread(run, argv.split())

    assert asyncio.run(drive()) == 0
    assert len(server.bodies) == (1 if broken else 5)
    warned = [line for line in capsys.readouterr().err.splitlines() if "warning: " in line]
    assert len(warned) == broken
    assert all(f"{trace} ends in the middle of line 2" in line for line in warned)
