"""The real engine, scheduler, KV manager and pool over memory that only keeps accounts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from ellm.core.config import ElasticPart, MemoryConfig, SchedulerConfig
from ellm.core.errors import BudgetError
from ellm.core.layers import LayerSpec
from ellm.core.units import KIB, MIB
from ellm.engine.assembly import assemble_memory
from ellm.engine.engine import Engine
from ellm.engine.weights import ModelWeights
from ellm.kv.manager import Owners
from ellm.memory.balloon import Balloon
from ellm.memory.drivers.null import NullDriver
from ellm.memory.pool import ChunkPool
from ellm.memory.unmapping import DeferredUnmaps
from ellm.sim.clock import VirtualClock
from ellm.sim.executor import SimExecutor

# What a simulated machine has, unless a budget is larger.
MACHINE_BYTES = 1024 * MIB


@dataclass(frozen=True, slots=True, kw_only=True)
class SimModel:
    """What a model weighs, what it keeps per token, and what its steps cost."""

    weight_bytes: int = 64 * KIB
    layers: Sequence[LayerSpec] = field(default=(LayerSpec(2, 8, 2),) * 4)
    vocab_size: int = 1000
    step_seconds: float = 0.01
    activation_bytes_per_token: int = 1 * KIB
    activation_bytes_per_row: int = 1 * KIB


def simulated_pool(memory: MemoryConfig) -> ChunkPool:
    """A pool of `memory.budget` bytes, which may be raised up to `MACHINE_BYTES`."""
    budget = memory.budget or 64 * MIB
    chunk_bytes = memory.chunk_bytes or 64 * KIB
    driver = NullDriver(max(budget, MACHINE_BYTES), chunk_bytes)
    unmaps = DeferredUnmaps(driver) if memory.uses(ElasticPart.DEFER) else None
    return ChunkPool(driver, budget, unmaps)


def simulated_engine(
    model: SimModel,
    memory: MemoryConfig,
    scheduler: SchedulerConfig,
    clock: VirtualClock | None = None,
) -> Engine:
    """An engine whose steps take no time but virtual time and no memory but accounts.

    Raises BudgetError when the longest context does not fit the budget.
    """
    pool = simulated_pool(memory)
    return _engine(Balloon(pool), pool, "", model, memory, scheduler, clock or VirtualClock())


class SimTenant:
    """A simulated model in a fleet: an engine.model.Tenant.  `read` stands for its file."""

    def __init__(
        self,
        pool: ChunkPool,
        balloon: Balloon,
        name: str,
        model: SimModel,
        memory: MemoryConfig,
        scheduler: SchedulerConfig,
        clock: VirtualClock,
        read: Callable[[int], None] = lambda address: None,
    ) -> None:
        self.weights = ModelWeights(pool, Owners.of(name), model.weight_bytes, read)
        self._make = partial(_engine, balloon, pool, name, model, memory, scheduler, clock)
        self._engine: Engine | None = None

    def engine(self) -> Engine:
        self._engine = self._make()
        return self._engine

    def leave(self) -> None:
        if self._engine is not None:
            self._engine.dispose()
        self.weights.leave()


def _engine(
    balloon: Balloon,
    pool: ChunkPool,
    name: str,
    model: SimModel,
    memory: MemoryConfig,
    scheduler: SchedulerConfig,
    clock: VirtualClock,
) -> Engine:
    executor = SimExecutor(
        clock,
        vocab_size=model.vocab_size,
        step_seconds=model.step_seconds,
        bytes_per_token=model.activation_bytes_per_token,
        bytes_per_row=model.activation_bytes_per_row,
    )
    parts = assemble_memory(pool, model.layers, memory, scheduler, balloon=balloon, name=name)
    try:
        return Engine(scheduler, parts, executor, clock)
    except BudgetError:
        parts.kv.dispose()
        raise
