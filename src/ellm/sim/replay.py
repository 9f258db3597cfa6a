"""The real engine, scheduler, KV manager and pool over memory that only keeps accounts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from ellm.core.config import ElasticPart, MemoryConfig, SchedulerConfig
from ellm.core.errors import BudgetError
from ellm.core.layers import LayerSpec
from ellm.core.plan import StepShape
from ellm.core.units import KIB, MIB
from ellm.engine.assembly import assemble_memory
from ellm.engine.engine import Engine
from ellm.engine.weights import ModelWeights
from ellm.kv.room import Owners
from ellm.memory.balloon import Balloon
from ellm.memory.driver import Driver
from ellm.memory.drivers.null import NullDriver
from ellm.memory.extents import DriverAccess
from ellm.memory.metered import MeteredDriver
from ellm.memory.pool import ChunkPool
from ellm.memory.stores.void import VoidStore
from ellm.memory.tiers import Tiers
from ellm.memory.timed_copier import TimedCopier
from ellm.memory.unmapping import DeferredUnmaps
from ellm.scheduling.coefficients import Coefficients
from ellm.scheduling.cost import StepCost
from ellm.sim.activations import Activations
from ellm.sim.charged import ChargedDriver
from ellm.sim.clock import VirtualClock
from ellm.sim.devices.device import DriverCalls
from ellm.sim.executor import Answer, SimExecutor, StepTime, Telltale

# What a simulated machine has.
MACHINE_BYTES = 1024 * MIB


@dataclass(frozen=True, slots=True, kw_only=True)
class SimModel:
    """What a model weighs, what it keeps per token, and what its steps
    and the tier below cost.

    `expected` is what its engine knows of step times from the start, None for nothing.  `answers`
    makes what chooses the tokens of one engine, and `engine` makes that: another one for a baseline
    that no setting describes.
    """

    weight_bytes: int = 64 * KIB
    layers: Sequence[LayerSpec] = field(default=(LayerSpec(2, 8, 2),) * 4)
    cost: StepTime = field(default=Coefficients.even(step=0.01))
    activations: Callable[[StepShape], int] = field(default=Activations())
    tier_bandwidth: float = 1e9
    expected: Coefficients | None = None
    answers: Callable[[], Answer] = Telltale
    engine: Callable[..., Engine] = Engine


@dataclass(frozen=True, slots=True)
class SimHouse:
    """What simulated models share; `memory` is for each of them.

    `charged` is the driver if its calls can take time, which they do once it `charges`.
    """

    memory: MemoryConfig
    clock: VirtualClock
    pool: ChunkPool
    balloon: Balloon
    tiers: Tiers | None
    charged: ChargedDriver | None = None

    @classmethod
    def of(
        cls,
        memory: MemoryConfig,
        clock: VirtualClock,
        tier_bandwidth: float = 1e9,
        machine: int = MACHINE_BYTES,
        calls: DriverCalls | None = None,
    ) -> SimHouse:
        """`machine` bytes are what there really is, if that is more or less than the budget.

        `calls` are what the driver's take, None for no time.
        """
        budget, chunk = memory.budget or 64 * MIB, memory.chunk_bytes or 64 * KIB
        charged = None if calls is None else ChargedDriver(machine, chunk, calls, clock.advance)
        driver: Driver = NullDriver(machine, chunk)
        if charged is not None:
            driver = MeteredDriver(charged, clock)
        unmaps = DeferredUnmaps(driver, at_once=not memory.uses(ElasticPart.DEFER))
        pool = ChunkPool(driver, budget, unmaps)
        tiers = None
        if memory.offload_bytes:
            store = VoidStore(memory.offload_bytes, tier_bandwidth)
            copier = TimedCopier(clock, clock.advance, tier_bandwidth)
            tiers = Tiers(store, DriverAccess(driver), copier)
        return cls(memory, clock, pool, Balloon(pool), tiers, charged)


def simulated_engine(
    model: SimModel,
    memory: MemoryConfig,
    scheduler: SchedulerConfig,
    clock: VirtualClock | None = None,
) -> Engine:
    """An engine whose steps take no time but virtual time and no memory but accounts.

    Raises BudgetError when the longest context does not fit the budget.
    """
    machine = max(MACHINE_BYTES, memory.budget or 0)
    house = SimHouse.of(memory, clock or VirtualClock(), model.tier_bandwidth, machine)
    return _engine(house, "", model, scheduler)


class SimTenant:
    """A simulated model in a fleet: an engine.model.Tenant.  `read` stands for its file."""

    def __init__(
        self,
        house: SimHouse,
        name: str,
        model: SimModel,
        scheduler: SchedulerConfig,
        read: Callable[[int], None] = lambda address: None,
    ) -> None:
        self.weights = ModelWeights(house.pool, Owners.of(name), model.weight_bytes, read)
        self._make = partial(_engine, house, name, model, scheduler)
        self._engine: Engine | None = None

    def engine(self) -> Engine:
        self._engine = self._make()
        return self._engine

    def leave(self) -> None:
        if self._engine is not None:
            self._engine.dispose()
        self.weights.leave()


def _engine(house: SimHouse, name: str, model: SimModel, scheduler: SchedulerConfig) -> Engine:
    executor = SimExecutor(
        house.clock, model.cost, model.activations, model.answers(), len(model.layers)
    )
    parts = assemble_memory(
        house.pool,
        model.layers,
        house.memory,
        scheduler,
        balloon=house.balloon,
        tiers=house.tiers,
        name=name,
    )
    try:
        cost = None if model.expected is None else StepCost.informed(model.expected)
        return model.engine(scheduler, parts, executor, house.clock, cost=cost)
    except BudgetError:
        parts.dispose()
        raise
