"""How many tokens a request cost."""

from __future__ import annotations

from pydantic import BaseModel


class PromptDetails(BaseModel):
    cached_tokens: int


class Usage(BaseModel):
    """`cached_tokens` of the prompt were not computed again."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails

    @classmethod
    def of(cls, prompt: int, completion: int, cached: int) -> Usage:
        return cls(
            prompt_tokens=prompt,
            completion_tokens=completion,
            total_tokens=prompt + completion,
            prompt_tokens_details=PromptDetails(cached_tokens=cached),
        )
