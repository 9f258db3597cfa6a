"""A fleet of one: a single engine, served as it was started."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, NoReturn

from ellm.core.errors import ConfigError, ModelNotFound
from ellm.obs.models import ModelInfo, ModelState
from ellm.obs.snapshot import MemorySnapshot
from ellm.server.backend import Backend, LoneBackend


class SoleModel:
    """Serves `llm`, which is always awake; what would change that raises ConfigError."""

    def __init__(self, llm: LoneBackend) -> None:
        self._llm = llm
        self._created = time.time()

    @property
    def models(self) -> Sequence[ModelInfo]:
        now = self._llm.snapshot()
        held = now.owners or now.memory.held
        info = ModelInfo(
            name=self._llm.model_name,
            state=ModelState.AWAKE,
            max_model_len=self._llm.max_model_len,
            created=self._created,
            held={kind: count * now.memory.chunk_bytes for kind, count in held.items()},
        )
        return (info,)

    def backend(self, name: str) -> Backend:
        if name != self._llm.model_name:
            raise ModelNotFound(f"no model {name!r} is served here")
        return self._llm

    async def load(self, model: str, **options: Any) -> str:
        self._refuse()

    async def unload(self, name: str) -> None:
        self._refuse()

    async def sleep(self, name: str) -> None:
        self._refuse()

    async def wake(self, name: str) -> None:
        self._refuse()

    async def set_memory(self, budget: int) -> None:
        self._refuse()

    def memory(self) -> MemorySnapshot:
        return self._llm.snapshot().memory

    def close(self) -> None:
        self._llm.close()

    def _refuse(self) -> NoReturn:
        raise ConfigError(
            f"this server was given the one engine of {self._llm.model_name} and cannot change it: "
            "start it with `ellm serve`"
        )
