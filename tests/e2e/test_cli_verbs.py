"""The command as a person or a pipe uses it, in processes of its own, on the bundled models."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

ELLM = str(Path(sys.executable).with_name("ellm"))
QUICK = ["--model", "ellm-draft", "--memory", "256MiB", "--dtype", "float32", "--threads", "1"]
ANSWER = ["--max-tokens", "12", "--temperature", "0"]


def ellm(*words: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [ELLM, *words], input=stdin, capture_output=True, text=True, timeout=300, check=False
    )


@contextmanager
def serving() -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """A server process on a free port, and its URL."""
    command = [ELLM, "serve", "ellm-draft", *QUICK[2:], "--port", "0", "--api-key", "secret"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            said = process.stdout.readline()
            found = re.search(r"http://\S+", said)
            assert found, f"no URL in {said!r}"
            yield found[0], process
        finally:
            process.kill()


def test_complete_prints_the_completion_alone() -> None:
    from ellm import LLM, SamplingParams

    with LLM("ellm-draft", memory="256MiB", dtype="float32", threads=1) as llm:
        params = SamplingParams(max_tokens=12, temperature=0)
        expected = llm.generate("import os", params, use_tqdm=False)[0].outputs[0].text
    assert expected
    whole = ellm("complete", "import os", *QUICK, *ANSWER)
    assert (whole.returncode, whole.stdout) == (0, expected + "\n"), whole.stderr
    streamed = ellm("complete", "-", *QUICK, *ANSWER, "--stream", stdin="import os")
    assert (streamed.returncode, streamed.stdout) == (0, expected + "\n"), streamed.stderr


@pytest.mark.parametrize("how", ["--stream", "--no-stream"])
def test_a_reader_that_leaves_ends_it_quietly(how: str) -> None:
    command = [ELLM, "complete", "import os", *QUICK, *ANSWER, how]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 141


def test_chat_answers_every_line_of_its_input() -> None:
    done = ellm("chat", *QUICK, *ANSWER, stdin="Reverse a list.\n\nAdd two numbers.\n")
    assert done.returncode == 0, done.stderr
    assert len(done.stdout) > 2


def test_ctrl_c_stops_the_answer_and_not_the_chat() -> None:
    command = [ELLM, "chat", *QUICK, "--max-tokens", "400", "--temperature", "0"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("Describe everything.\n")
        process.stdin.flush()
        assert process.stdout.read(1)  # the answer has begun
        process.send_signal(signal.SIGINT)
        out, err = process.communicate("Again.\n", timeout=300)
    assert process.returncode == 0, err
    assert "(stopped)" in err
    assert "Traceback" not in err
    assert out


def test_an_overlong_chat_says_so_and_goes_on() -> None:
    done = ellm("chat", *QUICK, *ANSWER, "--max-model-len", "64", stdin="word " * 200 + "\nAdd.\n")
    assert done.returncode == 0
    assert "error: " in done.stderr
    assert "64" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_missing_model_is_one_line() -> None:
    done = ellm("complete", "x", "--model", "/no/such/directory")
    assert done.returncode == 2
    assert done.stdout == ""
    assert re.fullmatch(r"\s*error: no directory /no/such/directory.*\n", done.stderr)


def test_a_served_model_answers_the_load_client_and_the_chat_and_stops_on_sigterm(
    tmp_path: Path,
) -> None:
    key = {**os.environ, "ELLM_API_KEY": "secret"}
    with serving() as (url, process):
        figures = tmp_path / "figures.json"
        load = (
            f"{ELLM} bench serve --base-url {url} --num-prompts 8 --input-len 20 --output-len 6 "
            f"--ignore-eos --max-concurrency 4 --endpoint chat --output-json {figures}"
        )
        subprocess.run(load.split(), env=key, check=True, capture_output=True, timeout=300)
        measured = json.loads(figures.read_text())
        assert (measured["completed"], measured["failed"]) == (8, 0)
        assert measured["output_tokens"] == 8 * 6
        assert measured["prompt_tokens"] > 8 * 20
        talk = [ELLM, "chat", "--url", url, *ANSWER]
        said = subprocess.run(
            talk, input="Hi\n", env=key, text=True, capture_output=True, timeout=300, check=True
        )
        assert said.stdout.strip()
        refused = ellm("chat", "--url", url, stdin="Hi\n")
        assert (refused.returncode, "needs --api-key" in refused.stderr) == (2, True)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0


def test_offline_benchmarks_report_their_figures(tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    sizes = ["--input-len", "8", "--output-len", "4", "--output-json", str(figures)]
    rounds = ["--batch-size", "2", "--num-iters", "2", "--num-iters-warmup", "1"]
    assert ellm("bench", "latency", *QUICK, *sizes, *rounds).returncode == 0
    assert len(json.loads(figures.read_text())["latencies_s"]) == 2
    assert ellm("bench", "throughput", *QUICK, *sizes, "--num-prompts", "3").returncode == 0
    measured = json.loads(figures.read_text())
    assert measured["requests"] == 3
    assert measured["output_tokens_per_s"] > 0
