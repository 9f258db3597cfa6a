"""How one request wants its tokens chosen."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ellm.core.errors import RequestError

MAX_STOPS = 64
MAX_LOGPROBS = 1000
MAX_CHOICES = 128
_INT32 = 2**31


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """Names and defaults as vLLM's class of the same name; all are checked on construction.

    `temperature=0` is greedy.  `top_k` 0 or -1 and `top_p` 1 are off.  `seed` makes a request
    reproducible whatever shares its batch and however often it is preempted.  `max_tokens=None`
    means as many as the context holds.  `logprobs=k` reports the chosen token and the k likeliest,
    from the raw distribution before temperature and penalties.

    Raises RequestError, naming the field.
    """

    n: int = 1
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] | None = None
    seed: int | None = None
    max_tokens: int | None = 16
    min_tokens: int = 0
    stop: Sequence[str] | str | None = field(default=())
    stop_token_ids: Sequence[int] | None = field(default=())
    include_stop_str_in_output: bool = False
    ignore_eos: bool = False
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    detokenize: bool = True
    skip_special_tokens: bool = True

    def __post_init__(self) -> None:
        _set(self, "stop", _as_tuple(self.stop))
        _set(self, "stop_token_ids", tuple(self.stop_token_ids or ()))
        _set(self, "logit_bias", _clean_bias(self.logit_bias))
        _check_int(self, "n", 1, MAX_CHOICES)
        _check_real(self, "temperature", 0.0, 100.0)
        _check_int(self, "top_k", -1, _INT32)
        _check_real(self, "top_p", 0.0, 1.0)
        if self.top_p == 0.0:
            raise RequestError("top_p must be above 0 and at most 1, not 0", "top_p")
        _check_real(self, "min_p", 0.0, 1.0)
        _check_real(self, "repetition_penalty", 0.0, 1e3)
        if self.repetition_penalty == 0.0:
            raise RequestError("repetition_penalty must be above 0, not 0", "repetition_penalty")
        _check_real(self, "presence_penalty", -2.0, 2.0)
        _check_real(self, "frequency_penalty", -2.0, 2.0)
        _check_int(self, "seed", -(2**63), 2**64 - 1, optional=True)
        _check_int(self, "max_tokens", 1, _INT32, optional=True)
        _check_int(self, "min_tokens", 0, _INT32)
        if self.max_tokens is not None and self.min_tokens > self.max_tokens:
            raise RequestError(
                f"min_tokens ({self.min_tokens}) is above max_tokens ({self.max_tokens})",
                "min_tokens",
            )
        _check_int(self, "logprobs", 0, MAX_LOGPROBS, optional=True)
        _check_int(self, "prompt_logprobs", 0, MAX_LOGPROBS, optional=True)
        _check_stops(self)

    @property
    def greedy(self) -> bool:
        """Whether the likeliest token is always taken (temperature below 1e-5, as vLLM)."""
        return self.temperature < 1e-5

    @property
    def reads_output(self) -> bool:
        """Whether a token is chosen by which ones came before it, beyond what the model sees."""
        counts = self.frequency_penalty or self.presence_penalty
        return self.repetition_penalty != 1.0 or bool(counts)


def _set(params: SamplingParams, name: str, value: Any) -> None:
    object.__setattr__(params, name, value)


def _as_tuple(stop: Sequence[str] | str | None) -> tuple[str, ...]:
    if stop is None:
        return ()
    return (stop,) if isinstance(stop, str) else tuple(stop)


def _clean_bias(bias: Mapping[int, float] | None) -> dict[int, float] | None:
    if not bias:
        return None
    try:
        clean = {int(token): float(value) for token, value in bias.items()}
    except (TypeError, ValueError) as error:
        raise RequestError("logit_bias maps token ids to numbers", "logit_bias") from error
    if len(clean) > 1024:
        raise RequestError(f"logit_bias has {len(clean)} entries, at most 1024", "logit_bias")
    for token, value in clean.items():
        if token < 0 or not -100.0 <= value <= 100.0:
            raise RequestError(
                f"logit_bias entry {token}: {value} is outside -100 to 100", "logit_bias"
            )
    return clean


def _check_int(
    params: SamplingParams, name: str, low: int, high: int, optional: bool = False
) -> None:
    value = getattr(params, name)
    if value is None and optional:
        return
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise RequestError(
            f"{name} must be a whole number from {low} to {high}, not {value!r}", name
        )


def _check_real(params: SamplingParams, name: str, low: float, high: float) -> None:
    value = getattr(params, name)
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or math.isnan(value) or not low <= value <= high:
        raise RequestError(f"{name} must be a number from {low:g} to {high:g}, not {value!r}", name)


def _check_stops(params: SamplingParams) -> None:
    assert isinstance(params.stop, tuple)
    assert isinstance(params.stop_token_ids, tuple)
    if len(params.stop) > MAX_STOPS:
        raise RequestError(f"stop has {len(params.stop)} strings, at most {MAX_STOPS}", "stop")
    if not all(isinstance(text, str) and text for text in params.stop):
        raise RequestError("stop must be non-empty strings", "stop")
    if len(params.stop_token_ids) > MAX_STOPS:
        raise RequestError(
            f"stop_token_ids has {len(params.stop_token_ids)} ids, at most {MAX_STOPS}",
            "stop_token_ids",
        )
    if not all(isinstance(t, int) and 0 <= t < _INT32 for t in params.stop_token_ids):
        raise RequestError("stop_token_ids must be token ids", "stop_token_ids")
    if params.stop and not params.detokenize:
        raise RequestError("stop strings need detokenize=True", "stop")
