"""What the server asks of an engine; `AsyncLLM` answers, and so can a test's script."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any, Protocol

from ellm.core.sampling import SamplingParams
from ellm.llm.tokenizer import Tokenizer
from ellm.obs.snapshot import EngineSnapshot
from ellm.obs.stats import EngineStats


class Score(Protocol):
    """Log-probability of one token; `rank` 1 is the likeliest."""

    @property
    def logprob(self) -> float: ...
    @property
    def rank(self) -> int | None: ...
    @property
    def decoded_token(self) -> str | None: ...


Scores = Mapping[int, Score]
"""The likeliest tokens of one position, and the token that stands there."""


class Choice(Protocol):
    """News of one continuation."""

    @property
    def index(self) -> int: ...
    @property
    def text(self) -> str: ...
    @property
    def token_ids(self) -> Sequence[int]: ...
    @property
    def logprobs(self) -> Sequence[Scores] | None: ...
    @property
    def finish_reason(self) -> str | None: ...
    @property
    def stop_reason(self) -> int | str | None: ...


class Output(Protocol):
    """News of one request."""

    @property
    def prompt_logprobs(self) -> Sequence[Scores | None] | None: ...
    @property
    def outputs(self) -> Sequence[Choice]: ...
    @property
    def num_cached_tokens(self) -> int | None: ...


class Backend(Protocol):
    """An engine behind an event loop."""

    model_name: str
    max_model_len: int
    stats: EngineStats

    @property
    def tokenizer(self) -> Tokenizer: ...

    def generate(
        self,
        prompt: Mapping[str, Any],
        params: SamplingParams,
        request_id: str,
        *,
        priority: int = 0,
        delta: bool = False,
    ) -> AsyncGenerator[Output, None]:
        """With `delta` each item has only what is new; closing it aborts the request."""
        ...

    async def health(self) -> None:
        """Return after a round trip to the step loop; raise EngineDead when it has stopped."""
        ...

    def snapshot(self) -> EngineSnapshot: ...

    def close(self) -> None: ...
