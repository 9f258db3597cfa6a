"""What the engine tells a caller after a step."""

from __future__ import annotations

from dataclasses import dataclass

from ellm.core.result import TokenLogprobs
from ellm.core.sequence import FinishReason


# One for each token: freezing it would cost three times as much.
@dataclass(slots=True)
class SequenceOutput:
    """News of one choice of one request; at most one per choice and step.

    `token` None means that only scores, or only the end, are reported.  `scores` are prompt
    log-probabilities in prompt order (the first prompt token has none); they may arrive over
    several steps, and only for choice 0.  `finish_reason` ends the choice.
    """

    request_id: str
    index: int
    token: int | None = None
    logprobs: TokenLogprobs | None = None
    scores: tuple[TokenLogprobs, ...] = ()
    finish_reason: FinishReason | None = None
    cached_tokens: int = 0
