"""Between a caller and an engine: text on one side, requests and tokens on the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ellm.core.clock import Clock
from ellm.core.objectives import Objectives
from ellm.core.sampling import SamplingParams
from ellm.engine.engine import Engine
from ellm.llm.blueprint import Blueprint
from ellm.llm.processor import Processor, Prompt
from ellm.llm.request_tracker import RequestTracker
from ellm.llm.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class Frontend:
    """The model's tokenizer and limits, applied to each request."""

    tokenizer: Tokenizer
    processor: Processor
    clock: Clock

    @classmethod
    def of(cls, blueprint: Blueprint, engine: Engine) -> Frontend:
        """The frontend of an engine that was built from `blueprint`."""
        tokenizer, clock = blueprint.tokenizer, engine.clock
        processor = Processor(
            tokenizer,
            blueprint.spec.vocab_size,
            engine.config.max_model_len,
            blueprint.end_tokens,
            clock,
        )
        return cls(tokenizer, processor, clock)

    def track(
        self,
        engine_id: str,
        request_id: str,
        prompt: Prompt,
        params: SamplingParams,
        priority: int = 0,
        delta: bool = False,
        objectives: Objectives | None = None,
        cache_salt: str | None = None,
    ) -> RequestTracker:
        """A request for the engine under `engine_id`, whose outputs bear the caller's id.

        Raises RequestError for one that cannot be served.
        """
        request, text = self.processor.process(
            engine_id, prompt, params, priority, objectives, cache_salt
        )
        return RequestTracker(request, request_id, text, self.tokenizer, self.clock, delta)

    def chat_prompt(
        self, messages: Sequence[Mapping[str, Any]], **options: Any
    ) -> dict[str, str | list[int]]:
        """A conversation as a prompt; the template, not the tokenizer, writes special tokens.

        `options` are those of `Tokenizer.apply_chat_template`.
        """
        text = self.tokenizer.apply_chat_template(messages, **options)
        ids = self.tokenizer.encode(text, add_special_tokens=False)
        return {"prompt": text, "prompt_token_ids": ids}
