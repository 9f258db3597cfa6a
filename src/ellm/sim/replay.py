"""The real engine, scheduler, KV manager and pool over memory that only keeps accounts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from ellm.core.config import MemoryConfig, SchedulerConfig
from ellm.core.layers import LayerSpec
from ellm.core.units import KIB, MIB, ceil_div
from ellm.engine.assembly import assemble_memory
from ellm.engine.engine import Engine
from ellm.engine.weights import ModelWeights
from ellm.memory.drivers.null import NullDriver
from ellm.memory.pool import ChunkPool
from ellm.memory.virtual import VirtualTensor
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
    return ChunkPool(NullDriver(max(budget, MACHINE_BYTES), chunk_bytes), budget)


def simulated_engine(
    model: SimModel,
    memory: MemoryConfig,
    scheduler: SchedulerConfig,
    clock: VirtualClock | None = None,
) -> Engine:
    """An engine whose steps take no time but virtual time and no memory but accounts.

    Raises BudgetError when the longest context does not fit the budget.
    """
    return _engine(simulated_pool(memory), model, memory, scheduler, clock or VirtualClock())


class SimTenant:
    """A simulated model in a fleet: an engine.model.Tenant.  `read` stands for its file."""

    def __init__(
        self,
        pool: ChunkPool,
        model: SimModel,
        memory: MemoryConfig,
        scheduler: SchedulerConfig,
        clock: VirtualClock,
        read: Callable[[], None] = lambda: None,
    ) -> None:
        span = pool.driver.reserve(ceil_div(model.weight_bytes, pool.chunk_bytes))
        self.weights = ModelWeights(VirtualTensor(pool, "weights", span), model.weight_bytes, read)
        self._make = partial(_engine, pool, model, memory, scheduler, clock)

    def engine(self) -> Engine:
        return self._make()

    def leave(self) -> None:
        self.weights.leave()


def _engine(
    pool: ChunkPool,
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
    parts = assemble_memory(pool, model.layers, memory, scheduler)
    return Engine(scheduler, parts, executor, clock)
