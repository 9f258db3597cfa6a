"""The composition root: where the deciding half meets the doing half.

machine ─ budget ─ chunk size ─ driver ─ pool         the house, once
directory ─ checkpoint ─ spec ─┐    ├ weights ────┐   each model
                               └────┴ KV, workspace ─ runner ─ engine
"""

from __future__ import annotations

import importlib.util
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import torch

from ellm.core.clock import Clock, MonotonicClock
from ellm.core.config import ElasticPart, MemoryConfig
from ellm.core.errors import BudgetError, ConfigError, DriverUnavailable
from ellm.core.executor import Executor
from ellm.core.units import format_bytes
from ellm.engine.assembly import assemble_memory
from ellm.engine.engine import Engine
from ellm.engine.fit import longest_context
from ellm.engine.weights import ModelWeights
from ellm.kernels.cpu.library import library
from ellm.kernels.cpu.ops import NativeOps
from ellm.kernels.ops import Ops
from ellm.kernels.reference import ReferenceOps
from ellm.kv.room import Owners
from ellm.llm.args import EngineArgs
from ellm.llm.blueprint import Blueprint
from ellm.llm.step_times import StepTimes
from ellm.llm.tier import open_tier
from ellm.memory.balloon import Balloon
from ellm.memory.budget import available_bytes, choose_chunk_bytes, default_budget, machine_bytes
from ellm.memory.driver import Driver
from ellm.memory.drivers.cuda import CudaDriver
from ellm.memory.drivers.host import HostDriver
from ellm.memory.fences import Fence
from ellm.memory.metered import MeteredDriver
from ellm.memory.pool import ChunkPool
from ellm.memory.tiers import Tiers
from ellm.memory.unmapping import DeferredUnmaps
from ellm.models.weights import Weights
from ellm.runtime.loader import load
from ellm.runtime.random_weights import make_weights
from ellm.runtime.runner import Runner
from ellm.runtime.sampler import Sampler
from ellm.runtime.workspace import Workspace

Progress = Callable[[int, int], None]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class House:
    """The memory that all models of this process share, and the device it is on."""

    pool: ChunkPool
    balloon: Balloon
    tiers: Tiers | None
    device: str
    memory: MemoryConfig
    times: list[StepTimes] = field(default_factory=list)

    @classmethod
    def open(cls, args: EngineArgs, blueprints: Sequence[Blueprint]) -> House:
        """A pool for these models, on the device and within the budget that `args` name.

        Raises BudgetError for a budget that the machine does not have.
        """
        memory = _memory(args, blueprints)
        raw = _driver(args.device, memory)
        memory = replace(memory, chunk_bytes=raw.chunk_bytes)
        assert memory.budget is not None
        driver = MeteredDriver(raw, MonotonicClock())
        fence = partial(_fence, raw, args.device) if isinstance(raw, CudaDriver) else None
        unmaps = DeferredUnmaps(driver, fence, at_once=not memory.uses(ElasticPart.DEFER))
        pool = ChunkPool(driver, memory.budget, unmaps)
        tiers = open_tier(memory.offload_bytes, args.kv_offloading_dir, args.device, fence)
        return cls(pool, Balloon(pool), tiers, args.device, memory)

    def settle(
        self, blueprint: Blueprint, name: str = "", progress: Progress | None = None
    ) -> Resident:
        """Address ranges for a model that the ledger knows by `name`; no chunk is taken yet."""
        return Resident(self, blueprint, name, progress)

    def require(self, budget: int) -> None:
        """Raise BudgetError if the machine could not give the pool `budget` bytes in all."""
        free = _machine_free(self.device) + self.pool.driver.physical_bytes()
        if budget > free:
            raise BudgetError(
                f"{format_bytes(budget)} are more than the {format_bytes(free)} that this process "
                "has or could have: say less, or free some"
            )

    def make_room_beside(self) -> None:
        """Give the device back what nobody uses, for what libraries take beside the pool."""
        self.pool.trim()
        torch.cuda.empty_cache()

    def close(self) -> None:
        """Release all memory at once.  No model is of use afterwards."""
        for times in self.times:
            times.save()
        if self.tiers is not None:
            self.tiers.close()
        self.pool.driver.close()


class Resident:
    """A model in the house: an engine.model.Tenant.

    `progress(done, total)` follows the first reading of the weights, in bytes.
    """

    def __init__(
        self, house: House, blueprint: Blueprint, name: str, progress: Progress | None
    ) -> None:
        self._house = house
        self._blueprint = blueprint
        self._name = name
        self._progress = progress
        self._ops = choose_ops(house.device, blueprint.dtype, blueprint.spec.head_dim)
        self._views: Weights | None = None
        self._engine: Engine | None = None
        self._times: StepTimes | None = None
        self.weights = ModelWeights(house.pool, Owners.of(name), blueprint.weight_bytes, self._read)

    def _read(self, address: int) -> None:
        """Fill the range with its weights.  Views of it are made once: it never moves."""
        plan, progress = self._blueprint, self._progress
        self._progress = None
        place = (plan.spec, plan.dtype, address, self._ops, self._house.device, progress)
        if plan.checkpoint is None:
            views = make_weights(*place, plan.args.seed)
        else:
            views = load(plan.checkpoint, *place)
        self._views = self._views or views

    def engine(
        self,
        clock: Clock | None = None,
        around: Callable[[Executor], Executor] = lambda runner: runner,
    ) -> Engine:
        plan, house, views = self._blueprint, self._house, self._views
        assert views is not None, "the weights have not been read"
        parts = assemble_memory(
            house.pool,
            plan.spec.layers(plan.dtype.itemsize),
            _of_model(house.memory, plan.args),
            plan.limits,
            balloon=house.balloon,
            tiers=house.tiers,
            name=self._name,
        )
        workspace = Workspace(parts.workspace.address, parts.workspace.capacity, house.device)
        sampler = Sampler(plan.spec.vocab_size, workspace, self._ops)
        limits = plan.limits
        runner = Runner(
            plan.spec,
            views,
            parts.kv.arena,
            workspace,
            self._ops,
            sampler,
            tasks=limits.max_num_seqs,
            on_shortage=house.make_room_beside,
        )
        if plan.args.max_model_len == 0:
            longest = longest_context(parts, runner.activation_bytes, limits.max_model_len)
            limits = replace(limits, max_model_len=max(1, longest))
        try:
            clock = clock or MonotonicClock()
            self._times = StepTimes(plan, house.device, self._ops.name)
            house.times.append(self._times)
            seed, cost = plan.args.seed, self._times.cost
            self._engine = Engine(limits, parts, around(runner), clock, seed, cost)
        except BudgetError:
            parts.dispose()
            raise
        return self._engine

    def leave(self) -> None:
        if self._engine is not None:
            self._engine.dispose()
        if self._times is not None:
            self._times.save()
            self._house.times.remove(self._times)
        self.weights.leave()


@dataclass(frozen=True, slots=True)
class Built:
    """One engine, and what it was built from."""

    engine: Engine
    blueprint: Blueprint
    memory: MemoryConfig


def build(
    args: EngineArgs,
    progress: Progress | None = None,
    *,
    clock: Clock | None = None,
    around: Callable[[Executor], Executor] = lambda runner: runner,
) -> Built:
    """Everything from a model's name to an engine that the caller steps.

    `progress(done, total)` follows the loading of weights, in bytes.  An experiment may put
    something of its own `around` the executor, and set the engine's `clock`.  Raises ModelError
    for a model that cannot be served, ConfigError for options that make no sense, and
    BudgetError, with numbers, when weights or the longest context do not fit the budget.
    """
    prepare_device(args.device, args.threads)
    blueprint = Blueprint.draw(args)
    house = House.open(args, [blueprint])
    try:
        resident = house.settle(blueprint, progress=progress)
        resident.weights.take()
        resident.weights.read()
        return Built(resident.engine(clock, around), blueprint, house.memory)
    except BaseException:
        house.close()
        raise


def _memory(args: EngineArgs, blueprints: Sequence[Blueprint]) -> MemoryConfig:
    """The budget in full, and the finest chunks that the machine can map of what can be used.

    Those of a device are its driver's business.
    """
    budget, asked = _budget(args), args.memory_config
    chunk_bytes = asked.chunk_bytes
    if chunk_bytes is None and args.device == "cpu":
        useful = sum(blueprint.useful_bytes for blueprint in blueprints)
        chunk_bytes = choose_chunk_bytes(min(budget, useful))
    return replace(asked, budget=budget, chunk_bytes=chunk_bytes)


def _of_model(memory: MemoryConfig, args: EngineArgs) -> MemoryConfig:
    """The same memory, as the engine of one model sees it."""
    return replace(
        args.memory_config,
        budget=memory.budget,
        chunk_bytes=memory.chunk_bytes,
        mode=memory.mode,
        offload_bytes=memory.offload_bytes,
    )


def _budget(args: EngineArgs) -> int:
    free = _machine_free(args.device)
    assert not isinstance(args.memory, str)
    if args.memory is None:
        return default_budget(free)
    if args.memory > free:
        raise BudgetError(
            f"--memory {format_bytes(args.memory)} is more than the {format_bytes(free)} that the "
            f"machine has free: say less, or leave the flag out to take what is free"
        )
    return args.memory


def _machine_free(device: str) -> int:
    """Bytes that the machine, or the device, would give us now."""
    if device == "cpu":
        return available_bytes()
    free, _ = torch.cuda.mem_get_info(device)
    return int(free)


def prepare_device(device: str, threads: int | None) -> None:
    """Check where to run, and set how many threads compute.

    Raises ConfigError for options that make no sense, DriverUnavailable for a device not here.
    """
    kind, colon, number = device.partition(":")
    if device != "cpu" and (kind != "cuda" or (colon and not number.isdecimal())):
        raise ConfigError(f"--device {device!r} is not cpu, cuda or cuda:N")
    if device != "cpu" and int(number or 0) >= torch.cuda.device_count():
        raise DriverUnavailable(
            f"--device {device}: PyTorch {torch.__version__} finds {torch.cuda.device_count()} "
            "CUDA devices; leave it out, or install PyTorch for CUDA (docs/gpu.md)"
        )
    if threads is not None and threads < 1:
        raise ConfigError(f"--threads must be at least 1, not {threads}")
    cores = len(os.sched_getaffinity(0))
    if threads is not None and threads > cores:
        _log.warning("%d threads will share %d usable cores: expect it slower", threads, cores)
    torch.set_num_threads(threads or torch.get_num_threads())
    native = library()
    if native is not None:
        native.threads(torch.get_num_threads())


def choose_ops(device: str, dtype: torch.dtype, head_dim: int) -> Ops:
    """The fastest op table there is for heads of that width and a dtype, on a device."""
    if device != "cpu":
        return _cuda_ops(dtype, head_dim)
    native = library()
    if native is None or not NativeOps.computes(dtype, head_dim):
        return ReferenceOps()
    return NativeOps(native)


def _cuda_ops(dtype: torch.dtype, head_dim: int) -> Ops:
    # PyTorch brings Triton along where it is built for CUDA.
    if importlib.util.find_spec("triton") is None:
        return ReferenceOps()
    from ellm.kernels.cuda.ops import CudaOps

    return CudaOps() if CudaOps.computes(dtype, head_dim) else ReferenceOps()


def _fence(driver: CudaDriver, device: str) -> Fence:
    """The moment after all work given so far to the stream that computes.

    That is the current one of the thread that asks, the engine's.
    """
    return driver.fence(torch.cuda.current_stream(device).cuda_stream)


def _driver(device: str, memory: MemoryConfig) -> Driver:
    if device == "cpu":
        assert memory.budget is not None
        assert memory.chunk_bytes is not None
        # Room for a larger budget later: what the pool does not use is a hole, and costs nothing.
        return HostDriver(max(memory.budget, machine_bytes()), memory.chunk_bytes)
    # The framework's own context must exist before the driver shares it.
    index = torch.zeros(1, device=device).device.index
    return CudaDriver(index, chunk_bytes=memory.chunk_bytes, on_shortage=torch.cuda.empty_cache)
