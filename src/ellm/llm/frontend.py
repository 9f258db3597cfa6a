"""Between a caller and an engine: text on one side, requests and tokens on the other."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ellm.core.clock import Clock
from ellm.core.sampling import SamplingParams
from ellm.llm.args import EngineArgs
from ellm.llm.build import Built, Progress, build
from ellm.llm.processor import Processor, Prompt, end_token_ids
from ellm.llm.request_tracker import RequestTracker
from ellm.llm.tokenizer import Tokenizer

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Frontend:
    """The model's tokenizer and limits, applied to each request."""

    tokenizer: Tokenizer
    processor: Processor
    clock: Clock

    @classmethod
    def load(cls, built: Built, chat_template: str | None) -> Frontend:
        """Raises ModelError or ConfigError for a tokenizer or template that cannot be used."""
        tokenizer = Tokenizer.load(built.tokenizer_dir, chat_template)
        ends = end_token_ids(built.model_dir, built.config, tokenizer.eos_token_id)
        clock = built.engine.clock
        processor = Processor(tokenizer, built.vocab_size, built.max_model_len, ends, clock)
        return cls(tokenizer, processor, clock)

    def track(
        self,
        engine_id: str,
        request_id: str,
        prompt: Prompt,
        params: SamplingParams,
        priority: int = 0,
        delta: bool = False,
    ) -> RequestTracker:
        """A request for the engine under `engine_id`, whose outputs bear the caller's id.

        Raises RequestError for one that cannot be served.
        """
        request, text = self.processor.process(engine_id, prompt, params, priority)
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


def start(args: EngineArgs, progress: Progress | None = None) -> tuple[Built, Frontend]:
    """An engine and its frontend, or neither.

    Raises ModelError, ConfigError or BudgetError, saying what to do.
    """
    cores = len(os.sched_getaffinity(0))
    if args.threads is not None and args.threads > cores:
        _log.warning("%d threads will share %d usable cores: expect it slower", args.threads, cores)
    built = build(args, progress)
    try:
        return built, Frontend.load(built, args.chat_template)
    except BaseException:
        built.engine.close()
        raise
