"""Several models in this process, on one memory budget and one step thread."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial

from ellm.core.clock import MonotonicClock
from ellm.core.errors import ConfigError
from ellm.engine.engine import Engine
from ellm.engine.errand import HelperThread
from ellm.engine.fleet import EngineFleet
from ellm.engine.inbox import Inbox
from ellm.engine.model import ModelState
from ellm.llm.args import PROCESS_OPTIONS, EngineArgs
from ellm.llm.blueprint import Blueprint
from ellm.llm.build import House, Progress, prepare_device
from ellm.llm.frontend import Frontend
from ellm.llm.served_model import ServedModel
from ellm.llm.streams import Streams
from ellm.obs.snapshot import MemorySnapshot


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """`created` is when it was loaded, in Unix seconds; `held` its bytes by kind: weights, kv,
    activations; `wake_seconds` how long it last took to wake, None if it never slept.
    """

    name: str
    state: ModelState
    max_model_len: int
    created: float
    held: Mapping[str, int]
    wake_seconds: float | None


@dataclass(frozen=True, slots=True)
class _Member:
    """What this side of the step thread keeps of a model."""

    engine: Engine
    frontend: Frontend
    created: float


class AsyncFleet:
    """Models by name, for many callers at once.

        fleet = AsyncFleet([EngineArgs("ellm-base"), EngineArgs("ellm-draft")], memory="1GiB")
        async for output in fleet.backend("ellm-draft").generate("Hello", SamplingParams(), "id"):
            ...

    Models must agree on the options of the process (args.PROCESS_OPTIONS).  Raises ModelError,
    ConfigError or BudgetError, saying what to do.
    """

    def __init__(
        self,
        models: Sequence[EngineArgs],
        *,
        idle_release: float | None = None,
        progress: Progress | None = None,
    ) -> None:
        self._args = _common(models)
        prepare_device(self._args.device, self._args.threads)
        blueprints = [Blueprint.draw(args) for args in models]
        self._house = House.open(self._args, blueprints)
        inbox = Inbox()
        self._helper = HelperThread(inbox)
        self._fleet = EngineFleet(
            self._house.pool, self._house.balloon, MonotonicClock(), self._helper, idle_release
        )
        self._streams = Streams(self._fleet, inbox)
        self._members: dict[str, _Member] = {}
        self._streams.loop.start()
        try:
            for blueprint in blueprints:
                self._load(blueprint, progress).result()
                self._admit(blueprint)
        except BaseException:
            self.close()
            raise

    def _load(self, blueprint: Blueprint, progress: Progress | None) -> Future[None]:
        settle = partial(self._house.settle, blueprint, blueprint.args.name, progress)
        return self._streams.loop.order(lambda: self._fleet.load(blueprint.args.name, settle))

    def _admit(self, blueprint: Blueprint) -> None:
        engine = self._fleet.model(blueprint.args.name).engine
        frontend = Frontend.of(blueprint, engine)
        self._members[blueprint.args.name] = _Member(engine, frontend, time.time())

    def backend(self, name: str) -> ServedModel:
        """The model as a server sees it.  Raises ModelNotFound."""
        return ServedModel(*self.parts(name))

    def parts(self, name: str) -> tuple[str, Engine, Frontend, Streams]:
        self._fleet.model(name)
        member = self._members[name]
        return name, member.engine, member.frontend, self._streams

    async def load(self, model: str, **options: object) -> None:
        """Take in another model while the others serve; return when it is awake.

        `options` are those of `EngineArgs` that belong to a model.  If anything fails, no memory
        is kept.  Raises ModelError, ConfigError or BudgetError.
        """
        blueprint = await asyncio.to_thread(self._draw, model, options)
        await asyncio.wrap_future(self._load(blueprint, None))
        self._admit(blueprint)

    def _draw(self, model: str, options: Mapping[str, object]) -> Blueprint:
        for name in options:
            if name in PROCESS_OPTIONS:
                raise ConfigError(f"{name} is shared by all models, and set when they are started")
        shared = {name: getattr(self._args, name) for name in PROCESS_OPTIONS}
        return Blueprint.draw(EngineArgs(model=model, **shared, **options))  # type: ignore[arg-type]

    async def unload(self, name: str) -> None:
        """Take no more requests for a model; return when those it had have ended, and it is gone.

        Raises ModelNotFound, or ModelBusy while it is being woken.
        """
        await asyncio.wrap_future(self._streams.loop.order(lambda: self._fleet.unload(name)))
        del self._members[name]

    async def sleep(self, name: str) -> None:
        """Give back all memory of a model without requests.  Raises ModelNotFound, ModelBusy."""
        await asyncio.wrap_future(self._streams.loop.call(lambda: self._fleet.sleep(name)))

    async def wake(self, name: str) -> None:
        """Return when the model is awake.  Raises ModelNotFound, ModelBusy or WakeFailed."""
        await asyncio.wrap_future(self._streams.loop.order(lambda: self._fleet.wake(name)))

    def memory(self) -> MemorySnapshot:
        return self._house.pool.snapshot()

    def close(self) -> None:
        """End the step thread and release all memory; twice is harmless.

        Requests that still run fail with EngineDead.  A step that hangs keeps its memory.
        """
        self._streams.close()
        self._helper.close()
        if self._streams.loop.has_ended:
            self._house.close()


def _common(models: Sequence[EngineArgs]) -> EngineArgs:
    """The first of `models`, with which all others agree on the options of the process."""
    if not models:
        raise ConfigError("name at least one model")
    first = models[0]
    for other in models[1:]:
        for name in PROCESS_OPTIONS:
            ours, theirs = getattr(first, name), getattr(other, name)
            if ours != theirs:
                raise ConfigError(
                    f"{name} is shared by all models: {other.model} has {theirs}, and "
                    f"{first.model} has {ours}"
                )
    return first
