"""Completions: text or token ids in, text out."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, PlainValidator

from ellm.core.errors import RequestError
from ellm.core.sampling import SamplingParams
from ellm.server.protocol.base import SamplingBody
from ellm.server.protocol.usage import Usage

DEFAULT_MAX_TOKENS = 16
_MOST_CHOICES = 4096
_MOST_LOGPROBS = 100

_SHAPES = "must be text, token ids, or a list of either, and not empty"
_STRANGE = "neither text nor token ids"

AnyPrompt = str | list[int]


def _read_prompts(value: Any) -> list[AnyPrompt]:
    """Every spelling as a list of prompts: each is text or token ids."""
    if isinstance(value, str) or _is_token_ids(value):
        return [value]
    if not isinstance(value, list) or not value:
        raise ValueError(_SHAPES)
    first = _kind(value[0])
    for place, part in enumerate(value):
        kind = _kind(part)
        if kind == _STRANGE:
            raise ValueError(f"element {place} is {kind}; {_SHAPES}")
        if kind != first:
            raise ValueError(f"element {place} is {kind}, but element 0 is {first}; {_SHAPES}")
    if len(value) > _MOST_CHOICES:
        raise ValueError(f"{len(value)} prompts, at most {_MOST_CHOICES} in one request")
    return value


def _kind(part: Any) -> str:
    """What an element of a list of prompts is, in words."""
    if isinstance(part, str):
        return "text"
    if type(part) is int:
        return "a token id"
    return "a list of token ids" if _is_token_ids(part) else _STRANGE


def _is_token_ids(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(type(token) is int for token in value)


Prompts = Annotated[
    list[AnyPrompt],
    PlainValidator(
        _read_prompts, json_schema_input_type=str | list[str] | list[int] | list[list[int]]
    ),
]


class CompletionRequest(SamplingBody):
    """The body of POST /v1/completions."""

    prompt: Prompts
    echo: bool | None = None
    logprobs: int | None = None

    @property
    def scores_only(self) -> bool:
        """Whether nothing is to be generated: the client wants its prompt back, scored."""
        return self.max_tokens == 0 and bool(self.echo)

    def params(self) -> SamplingParams:
        """Raises RequestError.  Without a limit 16 tokens are generated."""
        top = self.logprobs
        if top is not None and not 0 <= top <= _MOST_LOGPROBS:
            raise RequestError(
                f"logprobs must be from 0 to {_MOST_LOGPROBS}, not {top}", "logprobs"
            )
        limit = DEFAULT_MAX_TOKENS if self.max_tokens is None else self.max_tokens
        if self.scores_only:
            limit = 1
        scores = self.prompt_logprobs
        if self.echo and top is not None:
            scores = max(top, scores or 0)
        params = self.sampling(max_tokens=limit, logprobs=top, prompt_logprobs=scores)
        choices = len(self.prompt) * params.n
        if choices > _MOST_CHOICES:
            reason = f"{choices} choices, at most {_MOST_CHOICES} in one request"
            raise RequestError(f"n={params.n} for {len(self.prompt)} prompts makes {reason}", "n")
        return params


class CompletionLogprobs(BaseModel):
    """Parallel lists, one entry a token; `text_offset` counts characters from the text's start."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class CompletionChoice(BaseModel):
    """`stop_reason` is the stop string or token id that ended the text, if one did."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: str | None
    stop_reason: int | str | None = None
    prompt_logprobs: list[Any] | None = None
    prompt_token_ids: list[int] | None = None
    token_ids: list[int] | None = None


class Completion(BaseModel):
    """An answer, or one chunk of a streamed one."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage | None = None
