"""A server whose model is on a device, over HTTP, against the reference: PyTorch or native kernels
on the CPU, with the same weights.

Not collected by itself: `test_device_server.py` runs it on the CPU with a small shape, and
`tests/gpu/test_cuda_server.py` on a GPU with the widths of Llama-3.1-8B.  Whoever imports it
overrides `setting`.

Greedy words differ where two tokens are as good as equally likely, and everything after differs
with them.  So the reference is given the server's own words, and says of each how likely it was and
what would have been likelier.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import httpx
import pytest
import torch
from serving import eventually, running

from ellm import LLM, SamplingParams
from ellm.core.bundled import SHAPES
from ellm.llm.args import EngineArgs
from ellm.llm.async_llm import AsyncLLM

SOURCE = Path(__file__).resolve().parents[2] / "src"
TOKENS, PROMPTS = 24, (1, 7, 60, 200, 300)
START_SECONDS = 180.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """`cut` is changed of Llama-3.1-8B's config to have a model that the CPU can follow, `whole` is
    served by the command alone.

    Log-probabilities differ by at most `slack` nats, by `mean` on average.
    """

    device: str
    dtype: str
    slack: float
    mean: float
    cut: dict[str, Any]
    memory: str
    whole: tuple[str, ...]


def config(changes: dict[str, Any]) -> dict[str, Any]:
    shape = json.loads((SHAPES / "llama-3.1-8b.json").read_text())
    return {**shape, "max_position_embeddings": 1024, **changes}


@pytest.fixture(scope="module")
def shape(setting: Setting, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cut-down model: a directory with nothing but a config."""
    place = tmp_path_factory.mktemp("shape")
    (place / "config.json").write_text(json.dumps(config(setting.cut)))
    return place


def prompts(vocabulary: int) -> list[list[int]]:
    rng = random.Random(11)
    return [[rng.randrange(100, vocabulary) for _ in range(count)] for count in PROMPTS]


async def ask(url: str, asked: Sequence[Sequence[int]]) -> list[dict[str, Any]]:
    """All at once; the only choice of each answer."""
    body = {
        "max_tokens": TOKENS,
        "temperature": 0,
        "ignore_eos": True,
        "logprobs": 0,
        "return_token_ids": True,
    }

    async def one(client: httpx.AsyncClient, prompt: Sequence[int]) -> dict[str, Any]:
        answer = await client.post("/v1/completions", json={**body, "prompt": list(prompt)})
        assert answer.status_code == 200, answer.text
        (choice,) = answer.json()["choices"]
        return dict(choice)

    async with httpx.AsyncClient(base_url=url, timeout=300) as client:
        return await asyncio.gather(*(one(client, prompt) for prompt in asked))


def check(args: EngineArgs, setting: Setting, answers: Sequence[dict[str, Any]]) -> None:
    """Hold what was served against the reference, word by word."""
    asked = prompts(8000)
    said = [answer["token_ids"] for answer in answers]
    assert [len(words) for words in said] == [TOKENS] * len(asked)
    whole = [{"prompt_token_ids": [*p, *words]} for p, words in zip(asked, said, strict=True)]
    params = SamplingParams(max_tokens=1, temperature=0, prompt_logprobs=1)
    errors, likeliest = [], 0
    with LLM(args) as reference:
        scored = reference.generate(whole, params, use_tqdm=False)
    for prompt, answer, output in zip(asked, answers, scored, strict=True):
        assert output.prompt_logprobs is not None
        for place, token in enumerate(answer["token_ids"]):
            table = output.prompt_logprobs[len(prompt) + place]
            assert table is not None
            theirs, best = table[token].logprob, max(each.logprob for each in table.values())
            mine = answer["logprobs"]["token_logprobs"][place]
            assert theirs > best - setting.slack, (len(prompt), place, token, theirs, best)
            errors.append(abs(mine - theirs))
            assert errors[-1] < setting.slack, (len(prompt), place, mine, theirs)
            likeliest += theirs == best
    print(f"off by {fmean(errors):.4f} nats, {max(errors):.4f} at most; {likeliest} likeliest")
    assert fmean(errors) < setting.mean
    assert likeliest > 0.6 * len(errors)


def reference_of(args: EngineArgs) -> dict[str, Any]:
    return {
        "model": args.model,
        "load_format": args.load_format,
        "max_model_len": args.max_model_len,
        "device": "cpu",
        "dtype": "float32",
        "threads": len(os.sched_getaffinity(0)),
    }


def compare(args: EngineArgs, setting: Setting) -> None:
    llm = AsyncLLM(args)
    try:
        with running(llm) as url:
            answers = asyncio.run(ask(url, prompts(8000)))
    finally:
        llm.close()
    before = torch.get_num_threads()
    check(EngineArgs(**reference_of(args)), setting, answers)
    torch.set_num_threads(before)


def test_the_bundled_model_says_what_the_reference_says(setting: Setting) -> None:
    args = EngineArgs(
        model="ellm-base",
        device=setting.device,
        dtype=setting.dtype,
        memory="2GiB",
        max_model_len=1024,
    )
    compare(args, setting)


def test_random_weights_say_what_the_reference_says(setting: Setting, shape: Path) -> None:
    """The same numbers on both sides, and widths of a model as large as those that are served."""
    args = EngineArgs(
        model=str(shape),
        load_format="dummy",
        device=setting.device,
        dtype=setting.dtype,
        memory=setting.memory,
        max_model_len=1024,
    )
    compare(args, setting)


@contextmanager
def command(setting: Setting, home: Path) -> Iterator[str]:
    """`ellm serve` as a process; its URL once it answers."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    flags = ["--device", setting.device, "--no-enable-prefix-caching", "--port", str(port)]
    log = home / "log"
    with log.open("w") as said:
        server = subprocess.Popen(
            [sys.executable, "-m", "ellm", "serve", *setting.whole, *flags],
            stdout=said,
            stderr=said,
            env={**os.environ, "PYTHONPATH": search_path(), "XDG_CACHE_HOME": str(home)},
        )
    try:
        eventually(lambda: server.poll() is not None or healthy(url), START_SECONDS)
        assert server.poll() is None, log.read_text()
        eventually(lambda: "eLLM serves" in log.read_text())
        yield url
    finally:
        server.terminate()
        server.wait(60)
    assert "random weights" in log.read_text()


def search_path() -> str:
    """This source first, then whatever there is: wheels may lie anywhere on a borrowed machine."""
    known = os.environ.get("PYTHONPATH")
    return f"{SOURCE}{os.pathsep}{known}" if known else str(SOURCE)


def healthy(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", timeout=1.0).status_code == 200
    except httpx.HTTPError:
        return False


def test_the_command_serves_random_weights(setting: Setting, tmp_path: Path) -> None:
    """Alone, a prompt has the same answer twice, to the digit; beside others, an answer."""
    asked = prompts(8000)
    with command(setting, tmp_path) as url:
        # Heights of steps are met for the first time in the first of three.
        _, first, second = (
            [asyncio.run(ask(url, [prompt]))[0] for prompt in asked[:3]] for _ in range(3)
        )
        together = asyncio.run(ask(url, asked * 3))
        metrics = httpx.get(f"{url}/metrics").text
    for one, other in zip(first, second, strict=True):
        assert one["token_ids"] == other["token_ids"]
        assert one["logprobs"] == other["logprobs"]
        assert len(set(one["token_ids"])) > TOKENS / 3
    assert [len(answer["token_ids"]) for answer in together] == [TOKENS] * (3 * len(asked))
    assert "vllm:request_success_total" in metrics
