"""Fields that several requests share, and features we refuse by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field

from ellm.core.errors import RequestError
from ellm.core.objectives import Objectives
from ellm.core.sampling import SamplingParams
from ellm.server.backend import Terms

# Features that would change the answer, with the values that ask for nothing.
_REFUSED: Final[Mapping[str, tuple[Any, ...]]] = {
    "allowed_token_ids": (None, []),
    "audio": (None,),
    "bad_words": (None, []),
    "documents": (None, []),
    "early_stopping": (None, False),
    "function_call": (None, "none", "auto"),
    "functions": (None, []),
    "guided_choice": (None,),
    "guided_grammar": (None,),
    "guided_json": (None,),
    "guided_regex": (None,),
    "kv_transfer_params": (None,),
    "length_penalty": (None, 1),
    "logits_processors": (None, []),
    "mm_processor_kwargs": (None,),
    "modalities": (None, ["text"]),
    "prompt_embeds": (None,),
    "response_format": (None, {"type": "text"}),
    "structured_outputs": (None,),
    "suffix": (None, ""),
    "thinking_token_budget": (None,),
    "tools": (None, []),
    "use_beam_search": (None, False),
    "web_search_options": (None,),
}


class Body(BaseModel):
    """A JSON object; types are taken literally, null means "not given", unknown fields pass."""

    model_config = ConfigDict(strict=True, extra="allow")

    def refuse_unsupported(self) -> None:
        """Raise RequestError for a field that asks for something we cannot do."""
        extra = self.model_extra or {}
        for name, value in extra.items():
            if value in _REFUSED.get(name, (value,)):
                continue
            if name == "tools" and extra.get("tool_choice") == "none":
                continue
            raise RequestError(f"{name} is not supported by this server; leave it out", name)


class StreamOptions(Body):
    """`include_usage` adds a last chunk with the totals, `continuous_usage_stats` all others."""

    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None


Milliseconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class SamplingBody(Body):
    """How to continue, and what to report.  Ranges are checked by `SamplingParams`.

    `ttft_slo_ms` and `tpot_slo_ms` are this request's objectives for the time to its first token
    and the mean time between those that follow.
    """

    model: str | None = None
    n: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    seed: int | None = None
    max_tokens: int | None = None
    min_tokens: int | None = None
    stop: str | list[str] | None = None
    stop_token_ids: list[int] | None = None
    include_stop_str_in_output: bool | None = None
    ignore_eos: bool | None = None
    prompt_logprobs: int | None = None
    skip_special_tokens: bool | None = None
    best_of: int | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    add_special_tokens: bool | None = None
    truncate_prompt_tokens: int | None = None
    priority: int | None = None
    ttft_slo_ms: Milliseconds | None = None
    tpot_slo_ms: Milliseconds | None = None
    cache_salt: Annotated[str, Field(min_length=1)] | None = None
    request_id: str | None = None
    return_token_ids: bool | None = None
    return_tokens_as_token_ids: bool | None = None

    def sampling(
        self, *, max_tokens: int | None, logprobs: int | None, prompt_logprobs: int | None
    ) -> SamplingParams:
        """Raises RequestError for a value out of range or a feature we do not have."""
        self.refuse_unsupported()
        if self.best_of not in (None, self.n or 1):
            raise RequestError("best_of is not supported; ask for n choices instead", "best_of")
        if self.stream_options is not None and not self.stream:
            raise RequestError("stream_options needs stream: true", "stream_options")
        if self.prompt_logprobs is not None and self.stream:
            raise RequestError("prompt_logprobs cannot be streamed", "prompt_logprobs")
        given = {name: value for name in _SAMPLING if (value := getattr(self, name)) is not None}
        return SamplingParams(
            **given, max_tokens=max_tokens, logprobs=logprobs, prompt_logprobs=prompt_logprobs
        )

    def terms(self) -> Terms:
        """How this request is to be treated beside others."""
        terms = Terms()
        if self.priority is not None:
            terms["priority"] = self.priority
        ttft, tpot = (ms and ms / 1e3 for ms in (self.ttft_slo_ms, self.tpot_slo_ms))
        if ttft or tpot:
            terms["objectives"] = Objectives(ttft=ttft, tpot=tpot)
        if self.cache_salt is not None:
            terms["cache_salt"] = self.cache_salt
        return terms

    def keep_last(self, context: int) -> int | None:
        """Most prompt tokens to keep, None for all; asked as -1 it leaves room for the answer."""
        asked = self.truncate_prompt_tokens
        if asked == -1:
            asked = context - (self.max_tokens or 1)
        if asked is not None and asked < 1:
            param = "truncate_prompt_tokens"
            raise RequestError(f"{param} must be -1 or at least 1, not {asked}", param)
        return asked

    @property
    def include_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)

    @property
    def continuous_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.continuous_usage_stats)


_SAMPLING: Final = tuple(
    name
    for name in SamplingBody.model_fields
    if name in SamplingParams.__dataclass_fields__ and name not in ("max_tokens", "prompt_logprobs")
)


class TemplateBody(Body):
    """How messages become one text."""

    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    chat_template: str | None = None
    chat_template_kwargs: dict[str, Any] | None = None
