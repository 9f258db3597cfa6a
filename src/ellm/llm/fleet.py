"""Several models in this process, on one memory budget and one step thread."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from typing import Any

from ellm.core.clock import MonotonicClock
from ellm.core.config import MemoryMode
from ellm.core.errors import ConfigError, ModelNotFound
from ellm.core.units import ceil_div, parse_bytes
from ellm.engine.errand import HelperThread
from ellm.engine.fleet import EngineFleet
from ellm.engine.inbox import Inbox
from ellm.kv.room import Owners
from ellm.llm.args import PROCESS_OPTIONS, EngineArgs
from ellm.llm.blueprint import Blueprint
from ellm.llm.build import House, Progress, prepare_device
from ellm.llm.frontend import Frontend
from ellm.llm.served_model import ServedModel, read_beside
from ellm.llm.streams import Streams
from ellm.obs.models import ModelInfo, ModelState
from ellm.obs.snapshot import MemorySnapshot

Sizes = Mapping[str, str | int]


class AsyncFleet:
    """Models by name, for many callers at once.

        fleet = AsyncFleet([EngineArgs("ellm-base"), EngineArgs("ellm-draft")], memory="1GiB")
        async for output in fleet.backend("ellm-draft").generate("Hello", SamplingParams(), "id"):
            ...

    `memory` replaces the models' own, in bytes or as 4GiB.  A model without requests for
    `idle_release` seconds gives all its memory back, and is woken by its next request; None leaves
    it there until another model wants the room.  `floors` are bytes that others may never take
    from a model, weights included; above its ceiling a model never takes any.  With static memory
    every model has an equal share for good instead.

    Models must agree on the options of the process (args.PROCESS_OPTIONS).  Raises ModelError,
    ConfigError or BudgetError, saying what to do.
    """

    def __init__(
        self,
        models: Sequence[EngineArgs],
        *,
        memory: str | int | None = None,
        idle_release: float | None = None,
        floors: Sizes | None = None,
        ceilings: Sizes | None = None,
        progress: Progress | None = None,
    ) -> None:
        models = models if memory is None else [replace(args, memory=memory) for args in models]
        self._args = _common(models)
        self._floors, self._ceilings = _limits(models, floors), _limits(models, ceilings)
        prepare_device(self._args.device, self._args.threads)
        blueprints = [Blueprint.draw(args) for args in models]
        self._house = House.open(self._args, blueprints)
        if self._house.memory.mode is MemoryMode.STATIC:
            share = self._house.pool.total // len(models) * self._house.pool.chunk_bytes
            self._floors = self._ceilings = {args.name: share for args in models}
        inbox = Inbox()
        self._helper = HelperThread(inbox)
        # Beside host memory the tier is a file, as the checkpoint is, and reads no faster.
        tiers = None if self._args.device == "cpu" else self._house.tiers
        self._fleet = EngineFleet(
            self._house.pool,
            self._house.balloon,
            MonotonicClock(),
            self._helper,
            idle_release,
            tiers,
        )
        self._streams = Streams(self._fleet, inbox)
        self._served: dict[str, ServedModel] = {}
        self._created: dict[str, float] = {}
        self._roots: dict[str, str] = {}
        self._streams.loop.start()
        try:
            for blueprint in blueprints:
                self._load(blueprint, progress).result()
                self._admit(blueprint)
        except BaseException:
            self.close()
            raise

    def _load(self, blueprint: Blueprint, progress: Progress | None = None) -> Future[None]:
        name, chunk = blueprint.args.name, self._house.pool.chunk_bytes
        floor = ceil_div(self._floors.get(name, 0), chunk)
        ceiling = self._ceilings[name] // chunk if name in self._ceilings else None
        settle = partial(self._house.settle, blueprint, name, progress)
        return self._streams.loop.order(lambda: self._fleet.load(name, settle, floor, ceiling))

    def _admit(self, blueprint: Blueprint) -> None:
        name = blueprint.args.name
        engine = self._fleet.model(name).engine
        frontend = Frontend.of(blueprint, engine)
        self._served[name] = ServedModel(name, engine, frontend, self._streams)
        self._created[name] = time.time()
        self._roots[name] = blueprint.args.model

    @property
    def models(self) -> list[ModelInfo]:
        """Every model, in the order in which they were loaded."""
        return [self._info(name, state) for name, state in self._fleet.states.items()]

    def _info(self, name: str, state: ModelState) -> ModelInfo:
        served = self._served.get(name)
        if served is None:
            return ModelInfo(name, ModelState.LOADING)
        pool, owners = self._house.pool, Owners.of(name)
        return ModelInfo(
            name=name,
            state=state,
            max_model_len=served.max_model_len,
            created=self._created[name],
            held={
                "weights": pool.held(owners.weights) * pool.chunk_bytes,
                "kv": pool.held(owners.kv) * pool.chunk_bytes,
                "activations": pool.held(owners.activations) * pool.chunk_bytes,
            },
            wake_seconds=self._fleet.model(name).wake_seconds,
            root=self._roots[name] if self._roots[name] != name else None,
        )

    def backend(self, name: str) -> ServedModel:
        """The model as a server sees it.  Raises ModelNotFound."""
        self._fleet.model(name)
        if name not in self._served:
            raise ModelNotFound(f"model {name!r} is still being loaded: try again soon")
        return self._served[name]

    async def load(
        self,
        model: str,
        *,
        floor: str | int | None = None,
        ceiling: str | int | None = None,
        **options: Any,
    ) -> str:
        """Take in another model while the others serve; its name, when it is awake.

        `options` are those of `EngineArgs` that belong to a model; weights are read or made up as
        those of the first, unless they say otherwise.  If anything fails, no memory
        is kept.  Raises ModelError, ConfigError or BudgetError.
        """
        if self._house.memory.mode is MemoryMode.STATIC:
            raise ConfigError("static memory is divided at the start: name all models there")
        for option in PROCESS_OPTIONS:
            if option in options:
                raise ConfigError(f"{option} is shared by all models, and set at the start")
            options[option] = getattr(self._args, option)
        options.setdefault("load_format", self._args.load_format)
        args = EngineArgs(model=model, **options)
        blueprint = await asyncio.to_thread(Blueprint.draw, args)
        for limits, size in ((self._floors, floor), (self._ceilings, ceiling)):
            limits.pop(args.name, None)
            if size is not None:
                limits[args.name] = parse_bytes(size)
        await asyncio.wrap_future(self._load(blueprint))
        self._admit(blueprint)
        return args.name

    async def unload(self, name: str) -> None:
        """Take no more requests for a model; return when those it had have ended, and it is gone.

        Raises ModelNotFound, or ModelBusy while it is being woken.
        """
        await asyncio.wrap_future(self._streams.loop.order(lambda: self._fleet.unload(name)))
        self._served.pop(name, None)

    async def sleep(self, name: str) -> None:
        """Have a model without requests give all its memory back; return when it has.

        Raises ModelNotFound, or ModelBusy if it has requests, or gets one meanwhile.
        """
        await asyncio.wrap_future(self._streams.loop.order(lambda: self._fleet.sleep(name)))

    async def wake(self, name: str) -> None:
        """Return when the model is awake.  Raises ModelNotFound or WakeFailed."""
        await asyncio.wrap_future(self._streams.loop.order(lambda: self._fleet.wake(name)))

    async def set_memory(self, memory: str | int) -> None:
        """Change the budget, to that many bytes; what no longer fits has been given back on return.

        Raises BudgetError, and changes nothing, for less than some model needs for its longest
        context, less than what floors promise, or more than the machine has.
        """
        if self._house.memory.mode is MemoryMode.STATIC:
            raise ConfigError("static memory is divided at the start: restart to change it")
        budget = parse_bytes(memory)
        self._house.require(budget)
        await asyncio.wrap_future(self._streams.loop.call(lambda: self._fleet.resize(budget)))

    def memory(self) -> MemorySnapshot:
        """Chunks of the pool by owner: `name/weights`, `name/kv`, `name/activations`."""
        return read_beside(self._house.pool.snapshot)

    async def __aenter__(self) -> AsyncFleet:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

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
    names = [args.name for args in models]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"two models are called {name}: give one another --served-model-name")
    return first


def _limits(models: Sequence[EngineArgs], sizes: Sizes | None) -> dict[str, int]:
    """Bytes by model."""
    names = [args.name for args in models]
    for name in sizes or ():
        if name not in names:
            raise ConfigError(f"a limit for {name!r}, which is none of {', '.join(names)}")
    return {name: parse_bytes(size) for name, size in (sizes or {}).items()}
