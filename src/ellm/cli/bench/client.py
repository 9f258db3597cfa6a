"""One request to an OpenAI-compatible server, timed as its tokens arrive."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any

from ellm.cli.bench.question import Question

if TYPE_CHECKING:
    import httpx


class Endpoint(Enum):
    """Which of OpenAI's two dialects to speak."""

    COMPLETIONS = "completions"
    CHAT = "chat"

    @property
    def path(self) -> str:
        return "/v1/completions" if self is Endpoint.COMPLETIONS else "/v1/chat/completions"


@dataclass(frozen=True, slots=True)
class Target:
    """Whom to ask and how; each request says which of `models` it is for."""

    base_url: str
    models: tuple[str, ...]
    endpoint: Endpoint
    ignore_eos: bool = False
    temperature: float = 0.0
    api_key: str | None = None

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.api_key}"} if self.api_key else {}

    def model(self, item: Question) -> str:
        return self.models[item.model % len(self.models)]

    def body(self, item: Question) -> dict[str, Any]:
        """The JSON of one streaming request that ends with a usage chunk."""
        body: dict[str, Any] = {
            "model": self.model(item),
            "stream": True,
            "stream_options": {"include_usage": True},
            "temperature": self.temperature,
        }
        if self.endpoint is Endpoint.COMPLETIONS:
            body |= {"prompt": list(item.prompt), "max_tokens": item.output_len}
        else:
            messages = [{"role": "user", "content": item.text}]
            body |= {"messages": messages, "max_completion_tokens": item.output_len}
        if self.ignore_eos:
            body["ignore_eos"] = True
        return body


@dataclass(slots=True)
class Outcome:
    """What one request went through; times are seconds.

        scheduled ──queued──▶ sent ──ttft──▶ first token ──gaps──▶ last token
                              └──────────── latency ────────────────────┘

    `sent` counts from the start of the run.  `queued` is time lost to the client's own concurrency
    limit and is in no other figure.  `status` is the HTTP status, 0 when there was no answer.
    `error` None means success.
    """

    model: str = ""
    sent: float = 0.0
    queued: float = 0.0
    status: int = 0
    error: str | None = None
    prompt_tokens: int = 0
    output_tokens: int = 0
    ttft: float = 0.0
    latency: float = 0.0
    gaps: list[float] = field(default_factory=list)

    @property
    def tpot(self) -> float | None:
        """Mean seconds per token after the first; None for answers of one token."""
        if self.output_tokens < 2:
            return None
        return (self.latency - self.ttft) / (self.output_tokens - 1)


def why_not(url: str, error: Exception) -> str:
    """Why the server at `url` could not be asked, and what to do."""
    import httpx

    if isinstance(error, httpx.ConnectError):
        return f"nothing answers at {url}: is it running?"
    if isinstance(error, httpx.HTTPStatusError) and error.response.status_code == 401:
        return f"the server at {url} needs --api-key, with a key that it knows"
    return f"{url} does not answer as a server should: {str(error) or type(error).__name__}"


async def ask(http: httpx.AsyncClient, target: Target, item: Question) -> Outcome:
    """Send one request and follow its stream to the end; failures are outcomes, not exceptions."""
    import httpx

    outcome = Outcome(model=target.model(item))
    start = time.perf_counter()
    try:
        async with http.stream("POST", target.endpoint.path, json=target.body(item)) as response:
            outcome.status = response.status_code
            if response.status_code != 200:
                outcome.error = (await response.aread()).decode(errors="replace")[:300]
            else:
                await _follow(response, outcome, start)
    except (httpx.HTTPError, OSError, ValueError) as error:
        outcome.error = f"{type(error).__name__}: {error}"
    return outcome


async def _follow(response: httpx.Response, outcome: Outcome, start: float) -> None:
    last = start
    chunks, finished = 0, False
    async for event in events(response):
        if error := event.get("error"):
            outcome.error = json.dumps(error)[:300]
        if usage := event.get("usage"):
            outcome.prompt_tokens = usage.get("prompt_tokens") or 0
            outcome.output_tokens = usage.get("completion_tokens") or 0
        choices = event.get("choices") or ()
        finished |= any(choice.get("finish_reason") for choice in choices)
        if not any(_carries_token(choice) for choice in choices):
            continue
        now = time.perf_counter()
        if chunks == 0:
            outcome.ttft = now - start
        else:
            outcome.gaps.append(now - last)
        chunks += 1
        last = now
    outcome.latency = last - start
    outcome.output_tokens = outcome.output_tokens or chunks
    if chunks == 0 and outcome.error is None:
        if not finished:
            outcome.error = "the stream ended without a token"
        # The first token ended the text, and has none of its own.
        outcome.ttft = outcome.latency = time.perf_counter() - start


def _carries_token(choice: Mapping[str, Any]) -> bool:
    """Whether a chunk stands for generated text: not the opening role, not a bare finish."""
    delta = choice.get("delta")
    text = choice.get("text") if delta is None else delta.get("content")
    return bool(text) or (
        text == "" and not choice.get("finish_reason") and "role" not in (delta or ())
    )


async def events(response: httpx.Response) -> AsyncIterator[dict[str, Any]]:
    """JSON objects of a server-sent event stream, up to `[DONE]`; comments are passed over."""
    async for line in response.aiter_lines():
        if not line.startswith("data:"):
            continue
        data = line[5:].strip()
        if data == "[DONE]":
            return
        yield json.loads(data)
