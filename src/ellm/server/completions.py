"""Answers a completion: whole, or in chunks, with the prompt echoed where asked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace

from ellm.core.sampling import SamplingParams
from ellm.llm.outputs import CompletionOutput
from ellm.server import logprobs
from ellm.server.backend import Backend
from ellm.server.generation import ChoiceTotal, Generation, PromptTotal, blank_totals, collect
from ellm.server.prompts import Prompt, read_prompt
from ellm.server.protocol.completions import (
    DEFAULT_MAX_TOKENS,
    Completion,
    CompletionChoice,
    CompletionLogprobs,
    CompletionRequest,
)
from ellm.server.protocol.usage import Usage
from ellm.server.service import Ticket


@dataclass(frozen=True, slots=True)
class CompletionAnswer:
    """One completion request on its way.  `params` have been checked.

    The choices of prompt p are p·n … p·n + n − 1.
    """

    llm: Backend
    request: CompletionRequest
    params: SamplingParams
    ticket: Ticket

    async def whole(self) -> Completion:
        """Raises what the engine raises."""
        prompts = await self._prompts()
        totals = await collect(self._generation(prompts))
        choices = [
            self._choice(p * self.params.n + i, prompt, total, choice)
            for p, (prompt, total) in enumerate(zip(prompts, totals, strict=True))
            for i, choice in enumerate(total.choices)
        ]
        answer = self._answer(choices)
        answer.usage = self._usage(prompts, totals)
        return answer

    async def events(self) -> AsyncGenerator[str, None]:
        """Chunks as JSON.  An echoed prompt is a choice's first one."""
        prompts = await self._prompts()
        generation = self._generation(prompts)
        totals = blank_totals(generation)
        opened = set[int]()
        async with aclosing(generation.news()) as news:
            async for p, output in news:
                totals[p].add(output)
                for choice in output.outputs:
                    if not (choice.token_ids or choice.text or choice.finish_reason):
                        continue
                    number = p * self.params.n + choice.index
                    if number not in opened:
                        opened.add(number)
                        for opening in self._openings(number, prompts[p], totals[p]):
                            yield self._chunk(opening, prompts, totals)
                    said = totals[p].choices[choice.index]
                    delta = self._delta(number, prompts[p], choice, said)
                    yield self._chunk(delta, prompts, totals)
        if self.request.include_usage:
            answer = self._answer([])
            answer.usage = self._usage(prompts, totals)
            yield answer.model_dump_json(exclude_unset=True)

    async def _prompts(self) -> list[Prompt]:
        prompts = []
        for given in self.request.prompt:
            prompts.append(await self._prompt(given))
            await asyncio.sleep(0)  # a long batch lets others have the event loop
        return prompts

    async def _prompt(self, given: str | list[int]) -> Prompt:
        prompt = await read_prompt(
            self.llm,
            given,
            add_special_tokens=self.request.add_special_tokens,
            keep_last=self.request.keep_last(self.llm.max_model_len),
        )
        if not self.request.echo or prompt.text is not None:
            return prompt
        decode, skip = self.llm.tokenizer.decode, self.params.skip_special_tokens
        return replace(prompt, text=decode(prompt.token_ids, skip_special_tokens=skip))

    def _generation(self, prompts: Sequence[Prompt]) -> Generation:
        params = self.params
        if self.request.max_tokens is None:
            # Our default limit must not make a prompt too long that fits without it.
            room = self.llm.max_model_len - max(len(p.token_ids) for p in prompts)
            params = replace(params, max_tokens=max(1, min(DEFAULT_MAX_TOKENS, room)))
        return Generation(self.llm, prompts, params, self.ticket.request_id, self.request.terms())

    def _choice(
        self, number: int, prompt: Prompt, total: PromptTotal, said: ChoiceTotal
    ) -> CompletionChoice:
        text, token_ids, scores = "", list[int](), list[logprobs.Scores | None]()
        if self.request.echo:
            text = prompt.text or ""
            token_ids.extend(prompt.token_ids)
            scores.extend(total.prompt_logprobs)
        if not self.request.scores_only:
            text += said.text
            token_ids.extend(said.token_ids)
            scores.extend(said.logprobs)
        choice = CompletionChoice(
            index=number,
            text=text,
            logprobs=self._logprobs(token_ids, scores),
            finish_reason=said.finish_reason,
            stop_reason=said.stop_reason,
        )
        if self.request.prompt_logprobs is not None:
            choice.prompt_logprobs = logprobs.for_prompt(total.prompt_logprobs)
        if self.request.return_token_ids:
            choice.prompt_token_ids = prompt.token_ids
            choice.token_ids = [] if self.request.scores_only else said.token_ids
        return choice

    def _openings(
        self, number: int, prompt: Prompt, total: PromptTotal
    ) -> Iterator[CompletionChoice]:
        if not (self.request.echo or self.request.return_token_ids):
            return
        choice = CompletionChoice(index=number, text="", logprobs=None, finish_reason=None)
        if self.request.echo:
            choice.text = prompt.text or ""
            choice.logprobs = self._logprobs(prompt.token_ids, total.prompt_logprobs)
        if self.request.return_token_ids:
            choice.prompt_token_ids = prompt.token_ids
            choice.token_ids = []
        yield choice

    def _delta(
        self, number: int, prompt: Prompt, news: CompletionOutput, said: ChoiceTotal
    ) -> CompletionChoice:
        text, token_ids, scores = news.text, list(news.token_ids), list(news.logprobs or ())
        if self.request.scores_only:
            text, token_ids, scores = "", [], []
        # Offsets go on from where the text stood before this chunk.
        offset = said.length - len(news.text)
        if self.request.echo:
            offset += len(prompt.text or "")
        choice = CompletionChoice(
            index=number,
            text=text,
            logprobs=self._logprobs(token_ids, scores, offset),
            finish_reason=news.finish_reason,
        )
        if news.finish_reason:
            choice.stop_reason = news.stop_reason
        if self.request.return_token_ids:
            choice.token_ids = token_ids
        return choice

    def _logprobs(
        self, token_ids: Sequence[int], scores: Sequence[logprobs.Scores | None], offset: int = 0
    ) -> CompletionLogprobs | None:
        if self.params.logprobs is None:
            return None
        tokenizer = self.llm.tokenizer
        return logprobs.for_completion(
            token_ids,
            scores,
            self.params.logprobs,
            bool(self.request.return_tokens_as_token_ids),
            tokenizer,
            tokenizer.special_ids if self.params.skip_special_tokens else (),
            offset,
        )

    def _answer(self, choices: list[CompletionChoice]) -> Completion:
        return Completion(
            id=self.ticket.request_id,
            object="text_completion",
            created=self.ticket.created,
            model=self.ticket.model,
            choices=choices,
        )

    def _chunk(
        self, choice: CompletionChoice, prompts: Sequence[Prompt], totals: Sequence[PromptTotal]
    ) -> str:
        answer = self._answer([choice])
        if self.request.continuous_usage:
            answer.usage = self._usage(prompts, totals)
        elif self.request.include_usage:
            answer.usage = None
        return answer.model_dump_json(exclude_unset=True)

    def _usage(self, prompts: Sequence[Prompt], totals: Sequence[PromptTotal]) -> Usage:
        made = 0 if self.request.scores_only else sum(t.output_tokens for t in totals)
        cached = sum(t.cached_tokens for t in totals)
        return Usage.of(sum(len(p.token_ids) for p in prompts), made, cached)
