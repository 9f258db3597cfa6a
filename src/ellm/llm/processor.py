"""From what a user wrote to a request that the engine cannot refuse for its contents."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from operator import index
from pathlib import Path
from typing import Any

from ellm.core.clock import Clock
from ellm.core.errors import ContextOverflow, ModelError, RequestError
from ellm.core.objectives import Objectives
from ellm.core.request import Request
from ellm.core.sampling import SamplingParams
from ellm.llm.tokenizer import Tokenizer

Prompt = str | Sequence[int] | Mapping[str, Any]
"""Text, token ids, `{"prompt": text}` or `{"prompt_token_ids": ids}` (with its text, if known)."""


def end_token_ids(directory: Path, config: Mapping[str, Any], eos: int | None) -> frozenset[int]:
    """The tokens that end a text, by the model's two configs and its tokenizer.

    Of generation_config.json nothing else is used: what a request does not say is as
    `SamplingParams` has it, whatever the model.
    """
    path = directory / "generation_config.json"
    generation: Any = {}
    if path.is_file():
        try:
            generation = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ModelError(f"cannot read {path}: {error}") from error
    found = set() if eos is None else {eos}
    for source in (config, generation):
        ids = source.get("eos_token_id") if isinstance(source, Mapping) else None
        found.update([ids] if isinstance(ids, int) else ids or [])
    return frozenset(found)


class Processor:
    """Checks everything that depends on the model: its vocabulary and its context."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        vocab_size: int,
        max_model_len: int,
        end_tokens: frozenset[int],
        clock: Clock,
    ) -> None:
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size
        self._max_model_len = max_model_len
        self._end_tokens = frozenset(token for token in end_tokens if token < vocab_size)
        self._clock = clock

    def process(
        self,
        request_id: str,
        prompt: Prompt,
        params: SamplingParams,
        priority: int = 0,
        objectives: Objectives | None = None,
        cache_salt: str | None = None,
    ) -> tuple[Request, str | None]:
        """The request, and the prompt's text if it has one.

        Raises RequestError, naming the field; ContextOverflow if prompt and output do not fit.
        """
        if not isinstance(params, SamplingParams):
            kind = type(params).__name__
            raise RequestError(f"sampling params must be SamplingParams(...), not {kind}")
        text, ids = self._read(prompt)
        self._check_ids("prompt", ids)
        self._check_ids("logit_bias", params.logit_bias or ())
        self._check_ids("stop_token_ids", params.stop_token_ids or ())
        for name in ("logprobs", "prompt_logprobs"):
            count = getattr(params, name)
            if count is not None and count > self._vocab_size:
                raise RequestError(
                    f"{name} is {count}; the vocabulary has {self._vocab_size} tokens", name
                )
        request = Request(
            request_id=request_id,
            prompt=ids,
            params=self._fit(params, len(ids)),
            end_token_ids=self._end_tokens,
            arrival=self._clock.now(),
            priority=priority,
            objectives=objectives,
            cache_salt=cache_salt,
        )
        return request, text

    def _read(self, prompt: Prompt) -> tuple[str | None, tuple[int, ...]]:
        text: Any = None
        ids: Any = None
        if isinstance(prompt, str):
            text = prompt
        elif isinstance(prompt, Mapping):
            text, ids = prompt.get("prompt"), prompt.get("prompt_token_ids")
        else:
            ids = prompt
        if ids is not None and not isinstance(ids, Iterable):
            raise RequestError(
                f"a prompt is text, token ids or a dictionary of them, not {type(ids).__name__}",
                "prompt",
            )
        if text is not None and not isinstance(text, str):
            raise RequestError(f"prompt must be text, not {type(text).__name__}", "prompt")
        if ids is None:
            if text is None:
                raise RequestError("a prompt needs prompt or prompt_token_ids", "prompt")
            if not text:
                raise RequestError("prompt is empty", "prompt")
            ids = self._tokenizer.encode(text)
        try:
            numbers = tuple(index(token) for token in ids)
        except TypeError as error:
            raise RequestError("prompt token ids must be whole numbers", "prompt") from error
        if not numbers:
            raise RequestError("prompt is empty", "prompt")
        return text, numbers

    def _check_ids(self, name: str, ids: Collection[int]) -> None:
        for token in (min(ids), max(ids)) if ids else ():
            if not 0 <= token < self._vocab_size:
                raise RequestError(
                    f"{name} has token id {token}; ids are 0 to {self._vocab_size - 1}", name
                )

    def _fit(self, params: SamplingParams, prompt: int) -> SamplingParams:
        room = self._max_model_len - prompt
        if room < 1:
            raise ContextOverflow(
                f"the prompt has {prompt} tokens, and the context of {self._max_model_len} must "
                "also hold one token of output: shorten the prompt",
                "prompt",
            )
        if params.max_tokens is None:
            if params.min_tokens > room:
                raise ContextOverflow(
                    f"min_tokens is {params.min_tokens}; after {prompt} prompt tokens the context "
                    f"of {self._max_model_len} has room for {room}",
                    "min_tokens",
                )
            return replace(params, max_tokens=room)
        if params.max_tokens > room:
            raise ContextOverflow(
                f"{prompt} prompt tokens and max_tokens={params.max_tokens} make "
                f"{prompt + params.max_tokens}, above the context of {self._max_model_len} "
                f"tokens: ask for at most {room}",
                "max_tokens",
            )
        return params
