"""Models that follow scripts, over a memory that is only counted: 100 chunks of 64 KiB."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from scripted import ScriptedLLM

from ellm.core.errors import BudgetError, ModelBusy, ModelNotFound, WakeFailed
from ellm.obs.models import ModelInfo, ModelState
from ellm.obs.snapshot import MemorySnapshot
from ellm.server.backend import Backend

CHUNK = 65536


@dataclass
class Member:
    llm: ScriptedLLM
    state: ModelState = ModelState.AWAKE
    chunks: int = 10
    wake_seconds: float | None = None


@dataclass
class ScriptedFleet:
    """`unready` names a model that is known to be on its way in; `broken` cannot wake."""

    members: dict[str, Member]
    unready: str | None = None
    broken: str | None = None
    total: int = 100
    orders: list[tuple[Any, ...]] = field(default_factory=list)
    closed: bool = False

    @classmethod
    def of(cls, *names: str) -> ScriptedFleet:
        """Each says its own name over and over."""
        return cls({name: Member(ScriptedLLM(script=name, model_name=name)) for name in names})

    @property
    def models(self) -> Sequence[ModelInfo]:
        infos = [
            ModelInfo(
                name=name,
                state=member.state,
                max_model_len=member.llm.max_model_len,
                created=1.5,
                held={"weights": member.chunks * CHUNK, "kv": 0},
                wake_seconds=member.wake_seconds,
                root=f"/models/{name}",
            )
            for name, member in self.members.items()
        ]
        if self.unready is not None:
            infos.append(ModelInfo(self.unready, ModelState.LOADING))
        return infos

    def backend(self, name: str) -> Backend:
        return self._member(name).llm

    def _member(self, name: str) -> Member:
        if name not in self.members:
            raise ModelNotFound(f"no model {name!r} is served here")
        return self.members[name]

    async def load(self, model: str, **options: Any) -> str:
        self.orders.append(("load", model, options))
        name = options.get("served_model_name", model)
        if model.startswith("missing"):
            raise ModelNotFound(f"no directory {model}: give a directory or a hub id")
        if options.get("max_model_len", 512) > 512:
            raise BudgetError(
                "the context of 9999 tokens needs 12 MiB of KV, and 6.25 MiB are left"
            )
        self.members[name] = Member(ScriptedLLM(model_name=name))
        return name

    async def unload(self, name: str) -> None:
        self._member(name)
        del self.members[name]

    async def sleep(self, name: str) -> None:
        member = self._member(name)
        if member.llm.running:
            count = len(member.llm.running)
            raise ModelBusy(f"{name} has {count} requests: wait until they have ended")
        member.state, member.chunks = ModelState.ASLEEP, 0

    async def wake(self, name: str) -> None:
        member = self._member(name)
        if name == self.broken:
            raise WakeFailed(f"{name} could not be woken: its file is gone")
        await asyncio.sleep(0)
        member.state, member.chunks, member.wake_seconds = ModelState.AWAKE, 10, 0.0125

    async def set_memory(self, budget: int) -> None:
        needed = sum(member.chunks for member in self.members.values()) * CHUNK
        if budget < needed:
            raise BudgetError(f"weights alone hold {needed} bytes, and {budget} were asked for")
        self.total = budget // CHUNK

    def memory(self) -> MemorySnapshot:
        held = {f"{name}/weights": member.chunks for name, member in self.members.items()}
        used = sum(held.values())
        return MemorySnapshot(CHUNK, self.total, self.total - used, 0, held, used * CHUNK)

    def close(self) -> None:
        self.closed = True
