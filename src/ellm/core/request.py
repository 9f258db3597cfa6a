"""What a caller asked for, after validation."""

from __future__ import annotations

from dataclasses import dataclass

from ellm.core.objectives import Objectives
from ellm.core.sampling import SamplingParams


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One prompt and how to continue it; never changes once submitted.

    `end_token_ids` end the text unless the request ignores them (the model's own end-of-text
    tokens).  `arrival` is in the engine clock's seconds.  `params.max_tokens` is always a number
    here: the caller fills the context when the user gave none.  A lower `priority` goes first.
    `objectives` overrides the engine's, field by field.  Requests share a cached prefix only if
    their `cache_salt` is the same.
    """

    request_id: str
    prompt: tuple[int, ...]
    params: SamplingParams
    end_token_ids: frozenset[int] = frozenset()
    arrival: float = 0.0
    priority: int = 0
    objectives: Objectives | None = None
    cache_salt: str | None = None

    @property
    def max_tokens(self) -> int:
        assert self.params.max_tokens is not None, self.request_id
        return self.params.max_tokens

    @property
    def max_length(self) -> int:
        """Most tokens a sequence of this request can reach."""
        return len(self.prompt) + self.max_tokens
