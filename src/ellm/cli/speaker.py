"""Who answers in a chat: the engine in this process, or a server."""

from __future__ import annotations

import itertools
from collections.abc import AsyncGenerator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from ellm.cli.bench.client import events, why_not
from ellm.core.errors import RequestError
from ellm.core.sampling import SamplingParams

if TYPE_CHECKING:
    from ellm.llm.async_llm import AsyncLLM

Message = dict[str, str]


class Speaker(Protocol):
    """Continues a conversation, piece by piece; closing the iterator stops the work."""

    def answer(self, messages: Sequence[Message]) -> AsyncGenerator[str, None]: ...


class LocalSpeaker:
    """The engine in this process."""

    def __init__(self, llm: AsyncLLM, params: SamplingParams) -> None:
        self._llm = llm
        self._params = params
        self._turn = itertools.count()

    async def answer(self, messages: Sequence[Message]) -> AsyncGenerator[str, None]:
        text = self._llm.tokenizer.apply_chat_template(messages)
        ids = self._llm.tokenizer.encode(text, add_special_tokens=False)
        name = f"chat-{next(self._turn)}"
        prompt = {"prompt_token_ids": ids}
        async for output in self._llm.generate(prompt, self._params, name, delta=True):
            yield output.outputs[0].text


class RemoteSpeaker:
    """An OpenAI-compatible server.  Raises RequestError with what it answered."""

    def __init__(self, url: str, model: str, api_key: str | None, params: SamplingParams) -> None:
        self._url = url
        self._model = model
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._params = params

    async def answer(self, messages: Sequence[Message]) -> AsyncGenerator[str, None]:
        import httpx

        try:
            async with (
                httpx.AsyncClient(base_url=self._url, headers=self._headers, timeout=None) as http,
                http.stream("POST", "/v1/chat/completions", json=self._body(messages)) as response,
            ):
                if response.status_code == 401:
                    response.raise_for_status()
                if response.status_code != 200:
                    text = (await response.aread()).decode(errors="replace")
                    raise RequestError(f"{self._url} answered {response.status_code}: {text}")
                async for event in events(response):
                    if "error" in event:
                        raise RequestError(f"{self._url} broke off: {event['error']}")
                    for choice in event["choices"]:
                        yield choice["delta"].get("content") or ""
        except httpx.HTTPError as error:
            raise RequestError(why_not(self._url, error)) from error

    def _body(self, messages: Sequence[Message]) -> dict[str, Any]:
        params = self._params
        body: dict[str, Any] = {
            "model": self._model,
            "messages": list(messages),
            "stream": True,
            "temperature": params.temperature,
            "top_p": params.top_p,
            "max_completion_tokens": params.max_tokens,
            "seed": params.seed,
        }
        return body | ({"top_k": params.top_k} if params.top_k else {})
