"""What a caller gets back, in the shapes that vLLM's users know."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Logprob:
    """Of one token at one position, before temperature and penalties; `rank` 1 is the likeliest."""

    logprob: float
    rank: int | None = None
    decoded_token: str | None = None


@dataclass(frozen=True, slots=True)
class CompletionOutput:
    """One continuation, or what is new of it.

    `logprobs` has a table by token id for each of `token_ids`, the token itself included.
    `finish_reason` is stop, length or abort, None while it goes on; `stop_reason` is the stop
    string or stop token that ended it, None for the model's own end of text.
    """

    index: int
    text: str
    token_ids: list[int]
    cumulative_logprob: float | None = None
    logprobs: list[dict[int, Logprob]] | None = None
    finish_reason: str | None = None
    stop_reason: int | str | None = None

    @property
    def finished(self) -> bool:
        return self.finish_reason is not None


@dataclass(frozen=True, slots=True)
class RequestMetrics:
    """Moments in the engine clock's seconds; None while a moment has not come."""

    arrival_time: float
    first_token_time: float | None = None
    last_token_time: float | None = None


@dataclass(frozen=True, slots=True)
class RequestOutput:
    """All continuations of one prompt, or what is new of those that have news.

    `prompt` None means that token ids were given.  The first entry of `prompt_logprobs` is None:
    nothing comes before the first token.
    """

    request_id: str
    prompt: str | None
    prompt_token_ids: list[int]
    prompt_logprobs: list[dict[int, Logprob] | None] | None
    outputs: list[CompletionOutput]
    finished: bool
    num_cached_tokens: int
    metrics: RequestMetrics
