"""A model on devices: everything from a plan to engines that can be stepped."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from ellm.core.config import MemoryConfig, MemoryMode, SchedulerConfig
from ellm.core.errors import BudgetError, ConfigError
from ellm.core.load import StepLoad
from ellm.core.units import MIB, ceil_div, format_bytes
from ellm.engine.engine import Engine
from ellm.memory.budget import default_budget
from ellm.scheduling.coefficients import Coefficients
from ellm.sim.anatomy.formats import Formats
from ellm.sim.anatomy.transformer import Transformer
from ellm.sim.clock import VirtualClock
from ellm.sim.costs.roofline import Roofline
from ellm.sim.costs.stage import StageTime
from ellm.sim.devices.device import Device, DriverCalls
from ellm.sim.executor import silent
from ellm.sim.fabrics.interconnect import Interconnect
from ellm.sim.fabrics.known import find_fabric
from ellm.sim.host import Host
from ellm.sim.lane import Lane, Pipeline, UntilEnd
from ellm.sim.parallel.footprint import Footprint
from ellm.sim.parallel.plan import Plan, uniform
from ellm.sim.profile import Profile
from ellm.sim.replay import SimHouse, SimModel, SimTenant

# The granularity of CUDA's virtual memory.
CHUNK_BYTES = 2 * MIB


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """`memory` is that of each device: None as its budget is what it has less the margin.

    `stages` are the times of the plan's pipeline stages.  `host` is what the device is that has no
    memory of its own, else None.  `engine` makes what is stepped (sim/replay.py).
    """

    transformer: Transformer
    formats: Formats
    device: Device
    plan: Plan
    stages: Sequence[StageTime]
    memory: MemoryConfig
    limits: SchedulerConfig
    host: Host | None = None
    engine: Callable[..., Engine] = Engine

    @classmethod
    def by_roofline(
        cls,
        transformer: Transformer,
        device: Device,
        *,
        formats: Formats | None = None,
        plan: Plan | None = None,
        memory: MemoryConfig | None = None,
        limits: SchedulerConfig | None = None,
    ) -> Deployment:
        """With the times that the data sheet of `device` and its links promise; one device unless
        `plan` says more."""
        formats, plan = formats or Formats(), plan or uniform(transformer)
        inside, outside = find_fabric(device.fabric), find_fabric(device.network)
        links = Interconnect(inside, outside, device.per_node)
        roofline = Roofline(transformer, device, formats, links)
        return cls(
            transformer=transformer,
            formats=formats,
            device=device,
            plan=plan,
            stages=roofline.stages(plan),
            memory=memory or MemoryConfig(),
            limits=limits or SchedulerConfig(max_model_len=transformer.max_positions),
            host=Host.of(device),
        )

    @classmethod
    def by_profile(
        cls,
        transformer: Transformer,
        profile: Profile,
        *,
        formats: Formats | None = None,
        plan: Plan | None = None,
        memory: MemoryConfig | None = None,
        limits: SchedulerConfig | None = None,
    ) -> Deployment:
        """With the times that `profile` measured, where it is of this model; else by its device's
        roofline.

        Raises ConfigError for a tier below that was not measured.
        """
        formats = formats or profile.formats
        found = cls.by_roofline(
            transformer, profile.device, formats=formats, plan=plan, memory=memory, limits=limits
        )
        host = profile.host
        if host is not None and host.tier is None and found.memory.offload_bytes:
            raise ConfigError(
                f"{profile.where} knows no tier below: run ellm profile with --kv-offloading-size"
            )
        if profile.knows(transformer, formats) and found.plan.devices == 1:
            found = replace(found, stages=(profile.served,))
        return replace(found, host=host)

    @property
    def budget(self) -> int:
        """Bytes of each device that may be used."""
        if self.memory.budget is None and self.host is not None:
            return self.host.budget
        return self.memory.budget or default_budget(self.device.memory)

    @property
    def _calls(self) -> DriverCalls | None:
        """What the driver's calls take while serving; fixed shares are mapped at the start."""
        return self.device.driver if self.memory.mode is MemoryMode.ELASTIC else None

    @property
    def footprint(self) -> Footprint:
        """What a device holds."""
        return Footprint.of(self.transformer, self.plan, self.formats)

    def fits(self) -> bool:
        """Whether `lanes` would find memory enough, after making a single engine.

        Only numbers of chunks count: the weights are one chunk here, and memory is less by the
        others, since mapping them takes longer than all the rest.
        """
        try:
            model, memory, limits = self._share(self.footprint)
            assert memory.budget is not None
            assert memory.chunk_bytes is not None
            spared = (ceil_div(model.weight_bytes, memory.chunk_bytes) - 1) * memory.chunk_bytes
            left = replace(memory, budget=memory.budget - spared)
            clock = VirtualClock()
            single = replace(model, weight_bytes=memory.chunk_bytes, cost=UntilEnd(clock))
            self._engine(single, left, limits, clock)
        except BudgetError:
            return False
        return True

    def with_longest_context(self) -> Deployment:
        """The same with the longest context that fits, of those up to its own."""
        low, high = 1, self.limits.max_model_len
        while low < high:
            middle = (low + high + 1) // 2
            if self._of_context(middle).fits():
                low = middle
            else:
                high = middle - 1
        return self._of_context(low)

    def _of_context(self, tokens: int) -> Deployment:
        return replace(self, limits=replace(self.limits, max_model_len=tokens))

    def lanes(self) -> list[Lane]:
        """Fresh engines, in the order of replicas and then of their lanes.

        Raises BudgetError, saying which bytes do not fit.
        """
        found = []
        model, memory, limits = self._share(self.footprint)
        ranks = self.plan.ranks(self.transformer)
        for _ in range(self.plan.replicas):
            pipeline = Pipeline(self.stages)
            for _ in range(self.plan.stages):
                clock = VirtualClock()
                time = UntilEnd(clock)
                timed = replace(model, cost=time)
                engines = [self._engine(timed, memory, limits, clock) for _ in range(ranks)]
                found.append(Lane(clock, engines, pipeline, time, self.device.overhead.start))
        return found

    def _engine(
        self, model: SimModel, memory: MemoryConfig, limits: SchedulerConfig, clock: VirtualClock
    ) -> Engine:
        assert memory.budget is not None
        house = SimHouse.of(memory, clock, model.tier_bandwidth, memory.budget, self._calls)
        if house.tiers is not None and self.host is not None and self.host.tier is not None:
            tiers = self.host.tier.open(memory.offload_bytes, house.pool.driver, clock)
            house = replace(house, tiers=tiers)
        tenant = SimTenant(house, "", model, limits)
        tenant.weights.take()
        engine = tenant.engine()
        if house.charged is not None:
            house.charged.charges = True
        return engine

    def _share(self, footprint: Footprint) -> tuple[SimModel, MemoryConfig, SchedulerConfig]:
        """What one lane has of a device: its weights, and an equal part of the rest."""
        lanes = self.plan.stages
        limits = replace(self.limits, max_num_seqs=ceil_div(self.limits.max_num_seqs, lanes))
        states = footprint.state_bytes * limits.max_num_seqs
        fixed = footprint.weight_bytes + states
        left = self.budget - fixed
        if left <= 0:
            raise self._too_small(footprint.weight_bytes, states)
        chunk = self.memory.chunk_bytes or self._chunk_bytes(footprint)
        memory = replace(self.memory, budget=fixed + left // lanes, chunk_bytes=chunk)
        return self._model(footprint, fixed), memory, limits

    def _too_small(self, weights: int, states: int) -> BudgetError:
        held = f" and {format_bytes(states)} of recurrent states" if states else ""
        room = f"the {format_bytes(self.budget)} of {self.device.name}: take"
        if self.memory.budget is not None:
            room = (
                f"the {format_bytes(self.budget)} of --memory: give more ({self.device.name} has "
                f"{format_bytes(self.device.memory)}), take"
            )
        return BudgetError(
            f"{format_bytes(weights)} of weights{held} a device do not fit {room} more devices a "
            "copy, or narrower weights"
        )

    def _chunk_bytes(self, footprint: Footprint) -> int:
        """What a device has, or what its machine can map of the bytes that are of use."""
        if self.host is None:
            return CHUNK_BYTES
        rows = self.limits.max_num_seqs * self.limits.max_model_len
        useful = footprint.weight_bytes + rows * footprint.token_bytes
        return self.host.chunk_bytes(self.budget, useful)

    def _model(self, footprint: Footprint, fixed: int) -> SimModel:
        exact = None if self.host is None else self.host.room(self.transformer, self.formats.bytes)
        return SimModel(
            weight_bytes=fixed,
            layers=footprint.layers,
            activations=exact or footprint.activations,
            tier_bandwidth=self.device.host_bandwidth,
            expected=expected(self.stages),
            answers=lambda: silent,
            engine=self.engine,
        )

    def sole(self) -> SimModel:
        """The model on one device that it has not to itself, as a sim/household.py has it.

        Raises ConfigError where the plan takes more devices.
        """
        if self.plan.devices > 1:
            raise ConfigError(
                f"{self.transformer.name} takes {self.plan.devices} devices, and models share one "
                "device at a time: give each a plan of one"
            )
        footprint = Footprint.of(self.transformer, self.plan, self.formats)
        states = footprint.state_bytes * self.limits.max_num_seqs
        model = self._model(footprint, footprint.weight_bytes + states)
        return replace(model, cost=_Alone(self.stages[0]))


@dataclass(frozen=True, slots=True)
class _Alone:
    """The time of a step on the only stage of the only rank."""

    stage: StageTime

    def seconds(self, load: StepLoad) -> float:
        return self.stage.seconds((load,))


def expected(stages: Sequence[StageTime]) -> Coefficients:
    """What a scheduler that has watched such a deployment for long knows of its steps.

    It has no word for the least that a step with a prompt takes.
    """
    parts = [part for stage in stages for part in stage.parts.values()]
    total = parts[0]
    for part in parts[1:]:
        total += part
    for window in (window for stage in stages for window in stage.windows):
        total = replace(total, attention=total.attention + window.pair)
    return total
