"""What the server asks of an engine and of a fleet of them; a test's script can answer too."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import Any, Protocol, TypedDict

from ellm.core.objectives import Objectives
from ellm.core.sampling import SamplingParams
from ellm.llm.outputs import RequestOutput
from ellm.llm.processor import Prompt
from ellm.llm.tokenizer import Tokenizer
from ellm.obs.models import ModelInfo
from ellm.obs.snapshot import EngineSnapshot, MemorySnapshot
from ellm.obs.stats import EngineStats


class Terms(TypedDict, total=False):
    """How a request is to be treated beside others; what is left out is as the engine has it.

    A lower `priority` goes first.  `objectives` override the engine's, field by field.  Requests
    of different `cache_salt` share no prefix.
    """

    priority: int
    objectives: Objectives
    cache_salt: str


class Backend(Protocol):
    """One model.  As `AsyncLLM`, whose docstrings hold; `Terms` says what the rest means."""

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
        objectives: Objectives | None = None,
        cache_salt: str | None = None,
    ) -> AsyncGenerator[RequestOutput, None]: ...

    async def health(self, timeout: float) -> None: ...

    def snapshot(self) -> EngineSnapshot: ...


class LoneBackend(Backend, Protocol):
    """A model with an engine of its own, which ends when it is closed."""

    def close(self) -> None: ...


class Fleet(Protocol):
    """Models by name, over one memory.  Methods are called on the server's event loop.

    Every method that takes a name raises ModelNotFound for one that is not served.  What changes a
    model returns when that is done; cancelling the wait does not undo it.
    """

    @property
    def models(self) -> Sequence[ModelInfo]:
        """All of them, those on their way in included; the first answers where none is named."""
        ...

    def backend(self, name: str, /) -> Backend:
        """The model of that name; a sleeping one wakes when it is asked."""
        ...

    async def load(self, model: str, **options: Any) -> str:
        """Take in a model from a directory or a hub id, while the others serve; its name.

        `options` are fields of EngineArgs (`served_model_name` is what requests will call it), and
        `floor` and `ceiling`.  Raises ConfigError for a name that is taken or a wrong option,
        BudgetError, ModelError.
        """
        ...

    async def unload(self, name: str, /) -> None:
        """Send a model away once its requests have ended; raises ModelBusy while it wakes."""
        ...

    async def sleep(self, name: str, /) -> None:
        """Give back all memory of an idle model; raises ModelBusy while it has requests."""
        ...

    async def wake(self, name: str, /) -> None:
        """Have a model's weights in memory; raises WakeFailed."""
        ...

    async def set_memory(self, budget: int, /) -> None:
        """Change the budget to so many bytes; raises BudgetError, with numbers, changing nothing.

        What no longer fits has been given back on return, or is as soon as requests end.
        """
        ...

    def memory(self) -> MemorySnapshot: ...

    def close(self) -> None: ...
