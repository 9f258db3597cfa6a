"""The simulator is the engine: one trace, the same steps, with or without a device."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from ellm.core.config import KvLayout, SchedulerConfig
from ellm.core.layers import LayerSpec
from ellm.core.plan import StepPlan, StepShape
from ellm.core.request import Request
from ellm.core.result import StepResult
from ellm.core.sampling import SamplingParams
from ellm.core.units import KIB, MIB
from ellm.engine.assembly import assemble_memory
from ellm.engine.engine import Engine
from ellm.llm.args import EngineArgs
from ellm.llm.build import Built, build
from ellm.memory.drivers.null import NullDriver
from ellm.memory.pool import ChunkPool
from ellm.sim.clock import VirtualClock
from ellm.sim.executor import SimExecutor


class Watched:
    """An executor whose plans are written down: who, from where, how many tokens."""

    def __init__(self, inner: object) -> None:
        self.inner = inner
        self.steps: list[list[tuple[int, int, int]]] = []

    def activation_bytes(self, shape: StepShape) -> int:
        return self.inner.activation_bytes(shape)  # type: ignore[attr-defined, no-any-return]

    def execute(self, plan: StepPlan) -> StepResult:
        self.steps.append([(step.seq_id, step.start, len(step.tokens)) for step in plan.steps])
        return self.inner.execute(plan)  # type: ignore[attr-defined, no-any-return]


class SamePrice(SimExecutor):
    """Simulated tokens at a real device's price in activation bytes."""

    price: object

    def activation_bytes(self, shape: StepShape) -> int:
        return self.price.activation_bytes(shape)  # type: ignore[attr-defined, no-any-return]


def drive(engine: Engine) -> list[list[tuple[int, int, int]]]:
    """Replay one random trace of arrivals, with a KV ceiling that makes for preemptions."""
    watched = engine._executor = Watched(engine._executor)
    rng = random.Random(2)
    ledger = engine._memory.pool.ledger
    for turn in range(120):
        if turn < 40:
            prompt = tuple(rng.randrange(100, 200) for _ in range(rng.randrange(1, 100)))
            length, choices = rng.randrange(1, 30), rng.choice([1, 2])
            params = SamplingParams(max_tokens=length, temperature=0, ignore_eos=True, n=choices)
            engine.submit(Request(request_id=f"r{turn}", prompt=prompt, params=params))
        if turn % 7 == 0:
            ledger.limit("kv", ceiling=rng.randrange(36, 100))
        engine.step()
    while engine.has_work:
        engine.step()
    assert engine.stats.preemptions > 0
    return watched.steps


def simulated(built: Built, args: EngineArgs) -> Engine:
    """The same memory in accounts, the same limits, virtual time."""
    memory = built.memory
    assert memory.budget is not None
    assert memory.chunk_bytes is not None
    config = built.blueprint.checkpoint.config
    layer = LayerSpec(config["num_key_value_heads"], 64, 2)
    pool = ChunkPool(NullDriver(memory.budget, memory.chunk_bytes), memory.budget)
    weights = built.engine.snapshot().memory.held["weights"]
    assert pool.take("weights", weights) is not None
    clock = VirtualClock()
    executor = SamePrice(clock)
    executor.price = built.engine._executor
    limits = SchedulerConfig(
        max_num_seqs=args.max_num_seqs,
        max_num_batched_tokens=args.max_num_batched_tokens,
        max_model_len=built.engine.config.max_model_len,
    )
    parts = assemble_memory(pool, [layer] * config["num_hidden_layers"], memory, limits)
    return Engine(limits, parts, executor, clock)


@pytest.mark.parametrize("layout", list(KvLayout))
@pytest.mark.parametrize("prefix_caching", [False, True])
def test_same_trace_same_steps(layout: KvLayout, prefix_caching: bool) -> None:
    args = EngineArgs(
        model="ellm-draft",
        memory=64 * MIB,
        chunk_bytes=4 * KIB,
        max_model_len=256,
        max_num_seqs=12,
        max_num_batched_tokens=96,
        threads=1,
    )
    args = replace(args, kv_layout=layout, enable_prefix_caching=prefix_caching)
    built = build(args)
    twin = simulated(built, args)
    assert drive(built.engine) == drive(twin)
    built.engine.close()
