"""The composition root: where the deciding half meets the doing half.

directory ─ checkpoint ─ spec ─┐
machine ─ budget ─ chunk size ─┴ driver ─ pool ─┬ weights ────┐
                                                └ KV, workspace ─ runner ─ engine
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ellm.core.clock import Clock, MonotonicClock
from ellm.core.config import (
    ALL_PARTS,
    ElasticPart,
    KvLayout,
    MemoryConfig,
    MemoryMode,
    SchedulerConfig,
    SchedulingPolicy,
)
from ellm.core.errors import BudgetError, ConfigError, DriverUnavailable
from ellm.core.executor import Executor
from ellm.core.units import ceil_div, format_bytes
from ellm.engine.assembly import EngineMemory, assemble_memory
from ellm.engine.engine import Engine
from ellm.engine.fit import longest_context
from ellm.kernels.reference import ReferenceOps
from ellm.llm.args import EngineArgs
from ellm.llm.model_source import resolve_model
from ellm.llm.tier import open_tier
from ellm.memory.budget import available_bytes, choose_chunk_bytes, default_budget
from ellm.memory.driver import Driver
from ellm.memory.drivers.cuda import CudaDriver
from ellm.memory.drivers.host import HostDriver
from ellm.memory.metered import MeteredDriver
from ellm.memory.pool import ChunkPool
from ellm.memory.unmapping import DeferredUnmaps
from ellm.memory.virtual import VirtualTensor
from ellm.models.registry import describe
from ellm.models.spec import DecoderSpec
from ellm.models.weights import Weights
from ellm.runtime.checkpoint import Checkpoint
from ellm.runtime.loader import choose_dtype, load, weight_bytes
from ellm.runtime.runner import Runner
from ellm.runtime.sampler import Sampler
from ellm.runtime.workspace import Workspace

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Built:
    """An engine ready to step, and what those around it need to know of its model."""

    engine: Engine
    model_dir: Path
    tokenizer_dir: Path
    model_name: str
    max_model_len: int
    vocab_size: int
    dtype: str
    memory: MemoryConfig
    config: dict[str, Any]


def build(
    args: EngineArgs,
    progress: Progress | None = None,
    *,
    clock: Clock | None = None,
    around: Callable[[Executor], Executor] = lambda runner: runner,
) -> Built:
    """Everything from a model's name to a running engine.

    `progress(done, total)` follows the loading of weights, in bytes.  An experiment may put
    something of its own `around` the executor, and set the engine's `clock`.  Raises ModelError
    for a model that cannot be served, ConfigError for options that make no sense, and
    BudgetError, with numbers, when weights or the longest context do not fit the budget.
    """
    _prepare(args.device, args.threads)
    model_dir = resolve_model(args.model)
    tokenizer_dir = resolve_model(args.tokenizer) if args.tokenizer else model_dir
    checkpoint = Checkpoint.open(model_dir)
    spec = describe(checkpoint.config, args.max_model_len or None)
    dtype = choose_dtype(args.dtype, spec, checkpoint)
    scheduler = _limits(args, _context(args.max_model_len, spec))
    memory = _memory(args, spec, dtype, scheduler)
    assert memory.budget is not None
    driver = MeteredDriver(_driver(args.device, memory), MonotonicClock())
    unmaps = DeferredUnmaps(driver) if memory.uses(ElasticPart.DEFER) else None
    pool = ChunkPool(driver, memory.budget, unmaps)
    weights = _weights(checkpoint, spec, dtype, pool, args.device, progress)
    tiers = open_tier(memory.offload_bytes, args.kv_offloading_dir)
    layers = spec.layers(dtype.itemsize)
    parts = assemble_memory(pool, layers, memory, scheduler, tiers=tiers)
    runner = _runner(spec, weights, parts, args.device)
    if args.max_model_len == 0:
        longest = longest_context(parts, runner.activation_bytes, scheduler.max_model_len)
        scheduler = replace(scheduler, max_model_len=max(1, longest))
    return Built(
        engine=Engine(scheduler, parts, around(runner), clock or MonotonicClock(), args.seed),
        model_dir=model_dir,
        tokenizer_dir=tokenizer_dir,
        model_name=args.served_model_name or args.model,
        max_model_len=scheduler.max_model_len,
        vocab_size=spec.vocab_size,
        dtype=str(dtype).removeprefix("torch."),
        memory=memory,
        config=dict(checkpoint.config),
    )


def _limits(args: EngineArgs, context: int) -> SchedulerConfig:
    assert isinstance(args.scheduling_policy, SchedulingPolicy)
    assert not isinstance(args.ttft_slo, str)
    assert not isinstance(args.tpot_slo, str)
    return SchedulerConfig(
        max_num_seqs=args.max_num_seqs,
        max_num_batched_tokens=args.max_num_batched_tokens,
        chunked_prefill=args.enable_chunked_prefill,
        max_num_queued_reqs=args.max_num_queued_reqs,
        max_model_len=context,
        policy=args.scheduling_policy,
        ttft_slo=args.ttft_slo,
        tpot_slo=args.tpot_slo,
    )


def _context(asked: int | None, spec: DecoderSpec) -> int:
    if not asked:
        return spec.max_positions
    if asked > spec.max_positions:
        raise ConfigError(
            f"--max-model-len {asked} is beyond the {spec.max_positions} positions that the model "
            f"was trained for: set {spec.max_positions} or less"
        )
    return asked


def _memory(
    args: EngineArgs, spec: DecoderSpec, dtype: torch.dtype, scheduler: SchedulerConfig
) -> MemoryConfig:
    """The budget in full, and the finest chunks that the machine can map of what can be used."""
    budget = _budget(args)
    chunk_bytes = args.chunk_bytes
    assert not isinstance(chunk_bytes, str)
    assert isinstance(args.kv_layout, KvLayout)
    assert isinstance(args.memory_mode, MemoryMode)
    assert not isinstance(args.kv_offloading_size, str)
    if chunk_bytes is None and args.device == "cpu":
        per_token = sum(layer.token_bytes for layer in spec.layers(dtype.itemsize))
        useful = weight_bytes(spec, dtype)
        useful += scheduler.max_num_seqs * scheduler.max_model_len * per_token
        chunk_bytes = choose_chunk_bytes(min(budget, useful))
    return MemoryConfig(
        budget=budget,
        chunk_bytes=chunk_bytes,
        layout=args.kv_layout,
        block_size=args.block_size,
        prefix_caching=args.enable_prefix_caching,
        mode=args.memory_mode,
        offload_bytes=args.kv_offloading_size or 0,
        parts=ALL_PARTS - frozenset(args.ablate),
    )


def _budget(args: EngineArgs) -> int:
    if args.device == "cpu":
        free = available_bytes()
    else:
        free, _ = torch.cuda.mem_get_info(args.device)
    assert not isinstance(args.memory, str)
    if args.memory is None:
        return default_budget(free)
    if args.memory > free:
        raise BudgetError(
            f"--memory {format_bytes(args.memory)} is more than the {format_bytes(free)} that the "
            f"machine has free: say less, or leave the flag out to take what is free"
        )
    return args.memory


def _prepare(device: str, threads: int | None) -> None:
    """Check where to run, and set how many threads compute."""
    if device != "cpu" and device.partition(":")[0] != "cuda":
        raise ConfigError(f"--device {device!r} is not cpu or cuda")
    if device != "cpu" and not torch.cuda.is_available():
        raise DriverUnavailable(f"--device {device}: PyTorch finds no CUDA device; leave it out")
    if threads is not None and threads < 1:
        raise ConfigError(f"--threads must be at least 1, not {threads}")
    torch.set_num_threads(threads or torch.get_num_threads())


def _driver(device: str, memory: MemoryConfig) -> Driver:
    if device == "cpu":
        assert memory.budget is not None
        assert memory.chunk_bytes is not None
        return HostDriver(memory.budget, memory.chunk_bytes)
    # The framework's own context must exist before the driver shares it.
    index = torch.zeros(1, device=device).device.index
    return CudaDriver(index, chunk_bytes=memory.chunk_bytes, on_shortage=torch.cuda.empty_cache)


def _weights(
    checkpoint: Checkpoint,
    spec: DecoderSpec,
    dtype: torch.dtype,
    pool: ChunkPool,
    device: str,
    progress: Progress | None,
) -> Weights:
    need = weight_bytes(spec, dtype)
    room = pool.total * pool.chunk_bytes
    span = pool.driver.reserve(ceil_div(need, pool.chunk_bytes))
    tensor = VirtualTensor(pool, "weights", span)
    if not tensor.grow(need):
        raise BudgetError(
            f"the weights take {format_bytes(need)} as {dtype}, and the budget is "
            f"{format_bytes(room)}: raise --memory, or choose a smaller --dtype"
        )
    return load(checkpoint, spec, dtype, tensor.address, device, progress)


def _runner(spec: DecoderSpec, weights: Weights, parts: EngineMemory, device: str) -> Runner:
    workspace = Workspace(parts.workspace.address, parts.workspace.capacity, device)
    sampler = Sampler(spec.vocab_size, workspace)
    return Runner(spec, weights, parts.kv.arena, workspace, ReferenceOps(), sampler)
