"""The bundled model under rough treatment: afterwards every chunk is free again."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Iterator
from contextlib import ExitStack

import httpx
import pytest
from serving import eventually, post_and_keep, running

from ellm.core.units import MIB
from ellm.llm.args import EngineArgs
from ellm.llm.async_llm import AsyncLLM

TEXT = "/v1/completions"


def held(llm: AsyncLLM) -> int:
    """Chunks that requests hold; the weights' are the model's own."""
    owners = llm.snapshot().owners
    return owners["kv"] + owners["activations"]


@pytest.fixture(scope="module")
def forgetful() -> Iterator[AsyncLLM]:
    """A model that keeps no prefix for those that begin alike."""
    llm = AsyncLLM("ellm-base", memory=256 * MIB, threads=1, enable_prefix_caching=False)
    yield llm
    llm.close()


def test_a_burst_with_aborts_leaves_nothing(forgetful: AsyncLLM) -> None:
    with running(forgetful) as url:
        burst_and_look(url, forgetful)


def burst_and_look(url: str, bundled: AsyncLLM) -> None:
    pick = random.Random(5)

    async def one(client: httpx.AsyncClient) -> None:
        body = {
            "prompt": [pick.randrange(100, 4000) for _ in range(pick.randrange(1, 200))],
            "max_tokens": pick.randrange(1, 40),
            "n": pick.choice([1, 1, 2]),
            "stream": pick.random() < 0.5,
            "ignore_eos": True,
        }
        patience = pick.uniform(0.05, 2.0) if pick.random() < 0.5 else 60.0
        try:
            answer = await client.post(TEXT, json=body, timeout=patience)
        except httpx.TimeoutException:
            return  # leaving is the abort
        assert answer.status_code == 200, answer.text

    async def burst() -> None:
        limits = httpx.Limits(max_connections=64)
        async with httpx.AsyncClient(base_url=url, limits=limits) as client:
            await asyncio.gather(*(one(client) for _ in range(64)))

    aborted = bundled.stats.finished["abort"]
    asyncio.run(burst())
    eventually(lambda: held(bundled) == 0, 20.0)
    now = bundled.snapshot()
    assert (now.running, now.waiting, now.kv_usage) == (0, 0, 0.0)
    assert now.memory.free + now.owners["weights"] == now.memory.total
    assert bundled.stats.finished["abort"] > aborted
    physical = now.owners["weights"] * now.memory.chunk_bytes
    eventually(lambda: bundled.snapshot().memory.physical_bytes == physical, 20.0)


@pytest.fixture(scope="module")
def narrow() -> Iterator[AsyncLLM]:
    """One request runs, one waits."""
    args = EngineArgs(
        model="ellm-draft",
        memory=128 * MIB,
        max_num_seqs=1,
        max_num_queued_reqs=1,
        threads=1,
        enable_prefix_caching=False,
    )
    llm = AsyncLLM(args)
    yield llm
    llm.close()


@pytest.mark.parametrize("stream", [False, True])
def test_leaving_frees_the_running_and_the_queued(narrow: AsyncLLM, stream: bool) -> None:
    body = {"prompt": "a", "max_tokens": 2000, "ignore_eos": True, "stream": stream}
    with running(narrow) as url, ExitStack() as clients:
        first = clients.enter_context(post_and_keep(url, TEXT, json.dumps(body).encode()))
        eventually(lambda: narrow.snapshot().running == 1)
        second = clients.enter_context(post_and_keep(url, TEXT, json.dumps(body).encode()))
        eventually(lambda: narrow.snapshot().waiting == 1)
        refused = httpx.post(url + TEXT, json=body)
        assert refused.status_code == 503
        assert int(refused.headers["retry-after"]) >= 1
        assert refused.json()["error"]["code"] == "queue_full"
        second.close()
        eventually(lambda: narrow.snapshot().waiting == 0)
        assert narrow.snapshot().running == 1
        first.close()
        eventually(lambda: narrow.snapshot().running == 0)
        eventually(lambda: held(narrow) == 0)
        assert httpx.post(url + TEXT, json=body | {"max_tokens": 2}).status_code == 200


def test_a_closed_engine_is_not_healthy() -> None:
    llm = AsyncLLM(
        EngineArgs(model="ellm-draft", memory=64 * MIB, threads=1, enable_prefix_caching=False)
    )
    with running(llm) as url:
        assert httpx.get(url + "/health").status_code == 200
        llm.close()
        assert httpx.get(url + "/health").status_code == 503
        assert httpx.get(url + "/metrics").status_code == 200
        response = httpx.post(url + TEXT, json={"prompt": "a"})
        assert (response.status_code, response.json()["error"]["code"]) == (503, "engine_dead")
