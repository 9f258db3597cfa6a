"""A client in a process of its own, so that it takes no turns from the server's threads.

    python -m ellm.cli.profiling.caller URL

reads a JSON line with what to ask, {"prompts": [[ids], ...], "output": 64, "beside": []}, and
answers with a line for it: for each prompt [sent, ttft, last, ended, gaps], times after `sent`
in seconds.  The prompts are asked at once; those `beside` them one after the other, for a token
each, until the first of the others is answered.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Sequence
from typing import Any

import httpx

from ellm.cli.bench.client import Endpoint, Target, ask
from ellm.cli.bench.load import find_model
from ellm.cli.bench.question import Question
from ellm.core.errors import EngineDead

Answer = list[Any]


async def _one(http: httpx.AsyncClient, target: Target, prompt: Sequence[int], n: int) -> Answer:
    start = time.perf_counter()
    outcome = await ask(http, target, Question(prompt, n))
    ended = time.perf_counter() - start
    if outcome.error is not None:
        raise EngineDead(f"the server does not answer while it is profiled: {outcome.error}")
    return [start, outcome.ttft, outcome.latency, ended, outcome.gaps]


async def _ask(http: httpx.AsyncClient, target: Target, asked: dict[str, Any]) -> list[Answer]:
    prompts, output = asked["prompts"], asked["output"]
    tasks = [asyncio.create_task(_one(http, target, prompt, output)) for prompt in prompts]
    visits = []
    for prompt in asked["beside"]:
        visits.append(await _one(http, target, prompt, 1))
        if any(task.done() for task in tasks):
            break
    return [*await asyncio.gather(*tasks), *visits]


async def _run(url: str) -> None:
    target = Target(url, (await find_model(url, None),), Endpoint.COMPLETIONS, ignore_eos=True)
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    async with httpx.AsyncClient(base_url=url, timeout=None, limits=limits) as http:
        for line in sys.stdin:
            print(json.dumps(await _ask(http, target, json.loads(line))), flush=True)


if __name__ == "__main__":
    asyncio.run(_run(sys.argv[1]))
