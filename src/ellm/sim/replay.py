"""The real engine, scheduler, KV manager and pool over memory that only keeps accounts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ellm.core.config import ElasticPart, MemoryConfig, SchedulerConfig
from ellm.core.layers import LayerSpec
from ellm.core.units import KIB, MIB
from ellm.engine.assembly import assemble_memory
from ellm.engine.engine import Engine
from ellm.memory.drivers.null import NullDriver
from ellm.memory.extents import DriverAccess
from ellm.memory.pool import ChunkPool
from ellm.memory.stores.void import VoidStore
from ellm.memory.tiers import Tiers
from ellm.memory.timed_copier import TimedCopier
from ellm.memory.unmapping import DeferredUnmaps
from ellm.sim.clock import VirtualClock
from ellm.sim.executor import SimExecutor


@dataclass(frozen=True, slots=True, kw_only=True)
class SimModel:
    """What a model keeps per token, and what its steps and the tier below cost."""

    layers: Sequence[LayerSpec] = field(default=(LayerSpec(2, 8, 2),) * 4)
    vocab_size: int = 1000
    step_seconds: float = 0.01
    activation_bytes_per_token: int = 1 * KIB
    activation_bytes_per_row: int = 1 * KIB
    tier_bandwidth: float = 1e9


def simulated_engine(
    model: SimModel,
    memory: MemoryConfig,
    scheduler: SchedulerConfig,
    clock: VirtualClock | None = None,
) -> Engine:
    """An engine whose steps take no time but virtual time and no memory but accounts.

    Raises BudgetError when the longest context does not fit the budget.
    """
    clock = clock or VirtualClock()
    budget = memory.budget or 64 * MIB
    chunk_bytes = memory.chunk_bytes or 64 * KIB
    driver = NullDriver(budget, chunk_bytes)
    unmaps = DeferredUnmaps(driver) if memory.uses(ElasticPart.DEFER) else None
    pool = ChunkPool(driver, budget, unmaps)
    executor = SimExecutor(
        clock,
        vocab_size=model.vocab_size,
        step_seconds=model.step_seconds,
        bytes_per_token=model.activation_bytes_per_token,
        bytes_per_row=model.activation_bytes_per_row,
        layers=len(model.layers),
    )
    tiers = None
    if memory.offload_bytes:
        store = VoidStore(memory.offload_bytes, model.tier_bandwidth)
        copier = TimedCopier(clock, clock.advance, model.tier_bandwidth)
        tiers = Tiers(store, DriverAccess(driver), copier)
    parts = assemble_memory(pool, model.layers, memory, scheduler, tiers=tiers)
    return Engine(scheduler, parts, executor, clock)
