"""Answers a chat: whole, or in chunks."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from ellm.core.sampling import SamplingParams
from ellm.llm.outputs import CompletionOutput
from ellm.server import logprobs
from ellm.server.backend import Backend
from ellm.server.generation import ChoiceTotal, Generation, PromptTotal, blank_totals, collect
from ellm.server.prompts import Prompt, read_chat
from ellm.server.protocol.chat import (
    ChatChoice,
    ChatChunk,
    ChatChunkChoice,
    ChatCompletion,
    ChatDelta,
    ChatLogprobs,
    ChatMessage,
    ChatRequest,
)
from ellm.server.protocol.usage import Usage
from ellm.server.service import Ticket


@dataclass(frozen=True, slots=True)
class ChatAnswer:
    """One chat request on its way.  `params` have been checked.

    `trust_template` lets the request bring its own.
    """

    llm: Backend
    request: ChatRequest
    params: SamplingParams
    ticket: Ticket
    trust_template: bool

    async def whole(self) -> ChatCompletion:
        """Raises what the engine and the template raise."""
        prompt = await self._prompt()
        [total] = await collect(self._generation(prompt))
        answer = ChatCompletion(
            id=self.ticket.request_id,
            object="chat.completion",
            created=self.ticket.created,
            model=self.ticket.model,
            choices=[self._choice(i, choice) for i, choice in enumerate(total.choices)],
            usage=_usage(prompt, total),
        )
        if self.request.prompt_logprobs is not None:
            answer.prompt_logprobs = logprobs.for_prompt(total.prompt_logprobs)
        if self.request.return_token_ids:
            answer.prompt_token_ids = prompt.token_ids
        return answer

    async def events(self) -> AsyncGenerator[str, None]:
        """Chunks as JSON.  A choice's first one names the role, its last one the reason to end."""
        prompt = await self._prompt()
        generation = self._generation(prompt)
        [total] = blank_totals(generation)
        opened = set[int]()
        async with aclosing(generation.news()) as news:
            async for _, output in news:
                total.add(output)
                for choice in output.outputs:
                    if not (choice.token_ids or choice.text or choice.finish_reason):
                        continue
                    if choice.index not in opened:
                        opened.add(choice.index)
                        yield self._opening(choice.index, prompt, total)
                    yield self._chunk([self._delta(choice)], prompt, total)
        if self.request.include_usage:
            yield self._chunk([], prompt, total, final=True)

    async def _prompt(self) -> Prompt:
        return await read_chat(
            self.llm,
            self.request.messages,
            self.request,
            trust_template=self.trust_template,
            add_special_tokens=self.request.add_special_tokens,
            keep_last=self.request.keep_last(self.llm.max_model_len),
        )

    def _generation(self, prompt: Prompt) -> Generation:
        return Generation(
            self.llm, [prompt], self.params, self.ticket.request_id, self.request.terms()
        )

    def _choice(self, index: int, total: ChoiceTotal) -> ChatChoice:
        choice = ChatChoice(
            index=index,
            message=ChatMessage(role="assistant", content=total.text, refusal=None),
            logprobs=self._logprobs(total.token_ids, total.logprobs),
            finish_reason=total.finish_reason,
            stop_reason=total.stop_reason,
        )
        if self.request.return_token_ids:
            choice.token_ids = total.token_ids
        return choice

    def _opening(self, index: int, prompt: Prompt, total: PromptTotal) -> str:
        role = ChatChunkChoice(
            index=index,
            delta=ChatDelta(role="assistant", content=""),
            logprobs=None,
            finish_reason=None,
        )
        return self._chunk([role], prompt, total, opening=True)

    def _delta(self, news: CompletionOutput) -> ChatChunkChoice:
        choice = ChatChunkChoice(
            index=news.index,
            delta=ChatDelta(content=news.text),
            logprobs=self._logprobs(news.token_ids, news.logprobs or ()),
            finish_reason=news.finish_reason,
        )
        if news.finish_reason:
            choice.stop_reason = news.stop_reason
        if self.request.return_token_ids:
            choice.token_ids = news.token_ids
        return choice

    def _chunk(
        self,
        choices: list[ChatChunkChoice],
        prompt: Prompt,
        total: PromptTotal,
        *,
        opening: bool = False,
        final: bool = False,
    ) -> str:
        chunk = ChatChunk(
            id=self.ticket.request_id,
            object="chat.completion.chunk",
            created=self.ticket.created,
            model=self.ticket.model,
            choices=choices,
        )
        if final or self.request.continuous_usage:
            chunk.usage = _usage(prompt, total)
        elif self.request.include_usage:
            chunk.usage = None
        if opening and self.request.return_token_ids:
            chunk.prompt_token_ids = prompt.token_ids
        return chunk.model_dump_json(exclude_unset=True)

    def _logprobs(
        self, token_ids: Sequence[int], scores: Sequence[logprobs.Scores]
    ) -> ChatLogprobs | None:
        if self.params.logprobs is None:
            return None
        by_id = bool(self.request.return_tokens_as_token_ids)
        return logprobs.for_chat(token_ids, scores, self.params.logprobs, by_id)


def _usage(prompt: Prompt, total: PromptTotal) -> Usage:
    return Usage.of(len(prompt.token_ids), total.output_tokens, total.cached_tokens)
