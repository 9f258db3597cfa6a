"""What the server asks of an engine; `AsyncLLM` answers, and so can a test's script."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Protocol

from ellm.core.sampling import SamplingParams
from ellm.llm.outputs import RequestOutput
from ellm.llm.processor import Prompt
from ellm.llm.tokenizer import Tokenizer
from ellm.obs.snapshot import EngineSnapshot
from ellm.obs.stats import EngineStats


class Backend(Protocol):
    """As `AsyncLLM`, whose docstrings hold."""

    @property
    def model_name(self) -> str: ...
    @property
    def max_model_len(self) -> int: ...
    @property
    def tokenizer(self) -> Tokenizer: ...
    @property
    def stats(self) -> EngineStats: ...

    def generate(
        self,
        prompt: Prompt,
        params: SamplingParams,
        request_id: str,
        *,
        priority: int = 0,
        delta: bool = False,
    ) -> AsyncGenerator[RequestOutput, None]: ...

    async def health(self, timeout: float) -> None: ...

    def snapshot(self) -> EngineSnapshot: ...

    def close(self) -> None: ...
