"""One HTTP request as one or more engine requests, their news merged."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

from ellm.core.sampling import SamplingParams
from ellm.llm.outputs import Logprob, RequestOutput
from ellm.server.backend import Backend, Terms
from ellm.server.inflight import stopping
from ellm.server.prompts import Prompt

News = tuple[int, RequestOutput]
"""What is new, after the index of the prompt it belongs to."""


@dataclass(frozen=True, slots=True)
class Generation:
    """Every prompt is one engine request, under the same parameters."""

    llm: Backend
    prompts: Sequence[Prompt]
    params: SamplingParams
    request_id: str
    terms: Terms

    async def news(self) -> AsyncGenerator[News, None]:
        """Closing it aborts every prompt, and so does the failure of one."""
        if len(self.prompts) == 1:
            async with aclosing(self._one(0)) as stream:
                async for output in stream:
                    yield 0, output
            return
        merged: asyncio.Queue[News | Exception | None] = asyncio.Queue(maxsize=1)
        tasks = [asyncio.create_task(self._pump(i, merged)) for i in range(len(self.prompts))]
        try:
            left = len(tasks)
            while left:
                item = await merged.get()
                if isinstance(item, Exception):
                    raise item
                if item is None:
                    left -= 1
                else:
                    yield item
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _pump(self, index: int, merged: asyncio.Queue[News | Exception | None]) -> None:
        try:
            async with aclosing(self._one(index)) as stream:
                async for output in stream:
                    await merged.put((index, output))
            await merged.put(None)
        except Exception as error:
            await merged.put(error)

    async def _one(self, index: int) -> AsyncGenerator[RequestOutput, None]:
        stream = self.llm.generate(
            self.prompts[index].inputs,
            self.params,
            f"{self.request_id}-{index}",
            delta=True,
            **self.terms,
        )
        async with aclosing(stream):
            async for output in stream:
                if any(choice.finish_reason == "abort" for choice in output.outputs):
                    raise stopping()
                yield output


@dataclass(slots=True)
class ChoiceTotal:
    """Everything one continuation has said so far; `length` is in characters."""

    texts: list[str] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[dict[int, Logprob]] = field(default_factory=list)
    length: int = 0
    finish_reason: str | None = None
    stop_reason: int | str | None = None

    @property
    def text(self) -> str:
        return "".join(self.texts)


@dataclass(slots=True)
class PromptTotal:
    """Everything said so far about one prompt; `choices` by index."""

    choices: list[ChoiceTotal]
    prompt_logprobs: list[dict[int, Logprob] | None] = field(default_factory=list)
    cached_tokens: int = 0

    def add(self, output: RequestOutput) -> None:
        self.prompt_logprobs.extend(output.prompt_logprobs or ())
        self.cached_tokens = max(self.cached_tokens, output.num_cached_tokens)
        for news in output.outputs:
            choice = self.choices[news.index]
            choice.texts.append(news.text)
            choice.length += len(news.text)
            choice.token_ids.extend(news.token_ids)
            choice.logprobs.extend(news.logprobs or ())
            choice.finish_reason = news.finish_reason or choice.finish_reason
            choice.stop_reason = news.stop_reason if news.finish_reason else choice.stop_reason

    @property
    def output_tokens(self) -> int:
        return sum(len(choice.token_ids) for choice in self.choices)


def blank_totals(generation: Generation) -> list[PromptTotal]:
    """One for each prompt, nothing said yet."""
    n = generation.params.n
    return [PromptTotal([ChoiceTotal() for _ in range(n)]) for _ in generation.prompts]


async def collect(generation: Generation) -> list[PromptTotal]:
    """Run to the end."""
    totals = blank_totals(generation)
    async with aclosing(generation.news()) as news:
        async for index, output in news:
            totals[index].add(output)
    return totals
