"""Send a workload to a server at its times, within a limit of concurrent requests."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence

from ellm.cli.bench.client import Outcome, Target, ask, why_not
from ellm.cli.bench.question import Question
from ellm.core.errors import ConfigError


async def find_model(base_url: str, api_key: str | None) -> str:
    """The first model that the server lists.

    Raises ConfigError when it does not answer as an OpenAI-compatible server would.
    """
    import httpx

    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    try:
        async with httpx.AsyncClient(base_url=base_url, headers=headers, timeout=30) as http:
            answer = await http.get("/v1/models")
            answer.raise_for_status()
            return str(answer.json()["data"][0]["id"])
    except (httpx.HTTPError, ValueError, LookupError, TypeError) as error:
        raise ConfigError(why_not(base_url, error)) from error


async def apply_load(
    target: Target,
    items: Sequence[Question],
    max_concurrency: int | None,
    on_done: Callable[[], None],
) -> tuple[list[Outcome], float]:
    """Outcomes in the order of `items`, and the seconds from first request to last answer."""
    import httpx

    slots = asyncio.Semaphore(max_concurrency) if max_concurrency else contextlib.nullcontext()
    start = time.perf_counter()

    async def one(http: httpx.AsyncClient, item: Question) -> Outcome:
        await asyncio.sleep(max(start + item.arrival - time.perf_counter(), 0.0))
        due = time.perf_counter()
        async with slots:
            sent = time.perf_counter()
            outcome = await ask(http, target, item)
        outcome.sent, outcome.queued = sent - start, sent - due
        on_done()
        return outcome

    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    async with httpx.AsyncClient(
        base_url=target.base_url, headers=target.headers, timeout=None, limits=limits
    ) as http:
        outcomes = await asyncio.gather(*(one(http, item) for item in items))
    return list(outcomes), time.perf_counter() - start
