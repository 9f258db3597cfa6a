"""What the command line says when it cannot do what was asked: one line, and a status."""

from __future__ import annotations

import asyncio

import pytest

from ellm.cli.main import explain, run
from ellm.cli.speaker import RemoteSpeaker
from ellm.core.errors import (
    ConfigError,
    DriverError,
    DriverUnavailable,
    EngineDead,
    RequestError,
)
from ellm.core.sampling import SamplingParams

REPLAY = ["bench", "serve", "--dataset-name", "trace"]


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["serve", "--no-such-flag"], "--no-such-flag"),
        (["serve", "--gpu-memory-utilization", "0.9"], "--memory"),
        (["serve", "--gpu-memory-utilization=0.9"], "--memory"),
        (["serve", "--kv-cache-memory-bytes", "1G"], "--memory"),
        (["serve", "--memory", "lots"], "4GiB"),
        (["serve", "--max-model-len", "32Q"], "32K"),
        (["serve", "one", "--model", "one"], "2 models are called one: give --served-model-name"),
        (["serve", "a", "b", "--served-model-name", "x"], "2 models and 1 names"),
        (["serve", "--idle-release", "soon"], "500ms or 2s"),
        (["serve", "--ttft-slo", "fast"], "'--ttft-slo': cannot read 'fast' as a time"),
        (["serve", "--ablate", "balloon"], "ablate must be one of warm, premap"),
        (["serve", "a", "--model-floor", "b=1GiB"], "--model-floor b=1GiB: no model is called b"),
        (["serve", "a", "--model-ceiling", "1GiB"], "NAME=SIZE, as a=512MiB"),
        (["serve", "a", "--model-ceiling", "a=big"], "write for example 4GiB"),
        (["serve", "a", "--model-floor", "a=2G", "--model-ceiling", "a=1G"], "above its ceiling"),
        (
            ["serve", "a", "b", "--model-floor", "a=1G", "--model-floor", "b=2G", "--memory", "2G"],
            "the floors of a, b add up to 3 GiB, and --memory is 2 GiB: lower --model-floor",
        ),
        (["serve", "--model", "/no/such/model", "--port", "0"], "/no/such/model"),
        (["serve", "-tp", "2"], "--tensor-parallel-size: eLLM runs on one device"),
        (["serve", "--tensor-parallel-size=2"], "one device"),
        (["complete", "hello", "--swap-space", "4"], "--kv-offloading-size"),
        (["complete", "hello", "world"], "quotes"),
        (["complete", "hello", "--max-num-seqs", "many"], "many"),
        (["complete"], "prompt"),
        (["nonsense"], "serve, chat, complete"),
        (["bench", "nonsense"], "latency, throughput, serve"),
        (["complete", "hello", "--device", "tpu"], "tpu"),
        (["complete", "hello", "--threads", "0"], "--threads"),
        (["complete", "hello", "--model", "/no/such/model"], "/no/such/model"),
        (["complete", "", "--model", "ellm-draft"], "empty"),
        (["complete", "hello", "--temperature", "nan"], "temperature"),
        (["bench", "serve", "--goodput", "ttft"], "NAME:MILLISECONDS"),
        (["bench", "serve", "ttft:5"], "ttft:5"),
        (["bench", "serve", "--dataset-name", "trace"], "--dataset-path"),
        (["bench", "serve", "--request-rate", "-1"], "--request-rate"),
        (["bench", "serve", "--scale-lengths", "0.5"], "give one with --dataset-name trace"),
        (["bench", "serve", "--rate-scale", "2"], "give one with --dataset-name trace"),
        (
            [
                "bench",
                "serve",
                "--dataset-name",
                "trace",
                "--dataset-path",
                "x",
                "--rate-scale",
                "0",
            ],
            "--rate-scale must be above 0, not 0.0",
        ),
        (
            [
                "bench",
                "serve",
                "--dataset-name",
                "trace",
                "--rate-scale",
                "2",
                "--request-rate",
                "1",
            ],
            "--rate-scale keeps a trace's own times",
        ),
        (
            [*REPLAY, "--dataset-path", "/no/such/file"],
            "the trace /no/such/file does not exist",
        ),
        (["bench", "serve", "--base-url", "http://127.0.0.1:1"], "is it running"),
        (["chat", "--url", "http://127.0.0.1:1"], "nothing answers at http://127.0.0.1:1"),
    ],
)
def test_a_user_error_is_one_line_and_status_2(
    argv: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(argv) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert said.lower() in captured.err.lower()


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ConfigError("wrong"), 2),
        (DriverUnavailable("not here"), 2),
        (DriverError("refused"), 1),
        (EngineDead("stopped"), 1),
        (OSError("disk"), 1),
        (AssertionError("ours"), 1),
    ],
)
def test_the_status_says_who_can_mend_it(error: Exception, status: int) -> None:
    text, found = explain(error)
    assert found == status
    assert str(error) in text


def test_a_server_that_goes_away_during_a_chat_is_one_line() -> None:
    speaker = RemoteSpeaker("http://127.0.0.1:1", "m", None, SamplingParams())
    with pytest.raises(RequestError, match="is it running"):
        asyncio.run(anext(speaker.answer([{"role": "user", "content": "Hi"}])))


@pytest.mark.parametrize("words", [[], ["bench"]])
def test_the_list_of_commands_cuts_nothing_off(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*words, "--help"]) == 0
    assert "..." not in capsys.readouterr().out.partition("Commands:")[2]


def test_the_version_is_printed_alone(capsys: pytest.CaptureFixture[str]) -> None:
    import ellm

    assert run(["--version"]) == 0
    assert capsys.readouterr().out == ellm.__version__ + "\n"


def test_collect_env_names_versions_and_limits(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["collect-env"]) == 0
    out = capsys.readouterr().out
    for name in ("python", "torch", "vm.max_map_count", "default budget", "cuda driver"):
        assert name in out
