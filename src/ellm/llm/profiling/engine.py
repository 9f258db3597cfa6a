"""An engine to be measured: the one that the options make, without what would get in the way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ellm.core.config import SchedulingPolicy
from ellm.core.executor import Executor
from ellm.llm.args import EngineArgs
from ellm.llm.blueprint import Blueprint
from ellm.llm.build import Built, build, choose_ops
from ellm.llm.profiling.grid import Point, grid
from ellm.llm.profiling.steps import SPARE, Idler, Measured, StepBench, Tick, measure
from ellm.llm.step_times import StepTimes
from ellm.scheduling.coefficients import Coefficients

# The part of the memory left beside weights that sequences of one point may take.
_SHARE = 0.6

Choose = Callable[[Sequence[Point]], Sequence[Point]]


@dataclass(frozen=True, slots=True)
class MeasuredModel:
    """Steps of one model, and the chunks its memory was cut into."""

    blueprint: Blueprint
    kernels: str
    chunk_bytes: int
    steps: Sequence[Measured]

    @property
    def name(self) -> str:
        """As people call it: of a directory the last part."""
        path = Path(self.blueprint.args.model)
        return path.name if path.is_dir() else self.blueprint.args.name

    def leave(self, coefficients: Coefficients) -> None:
        """Have engines that start with this model and these options know their step times."""
        StepTimes(self.blueprint, self.blueprint.args.device, self.kernels).know(coefficients)


def plain(args: EngineArgs) -> EngineArgs:
    """Requests in order of arrival, prompts that are known shared, nothing below."""
    return replace(
        args,
        scheduling_policy=SchedulingPolicy.FCFS,
        enable_prefix_caching=True,
        kv_offloading_size=None,
        kv_offloading_dir=None,
    )


def measure_model(
    args: EngineArgs,
    seconds: float,
    tick: Tick,
    choose: Choose = lambda points: points,
    ready: Callable[[], None] = lambda: None,
) -> MeasuredModel:
    """Steps of the kinds that `choose` leaves of the grid, measured for about so many seconds.

    `ready` is called when the model is there.  Raises what `build` raises.
    """
    idlers: list[Idler] = []

    def around(runner: Executor) -> Executor:
        idlers.append(Idler(runner))
        return idlers[-1]

    built = build(plain(args), around=around)
    try:
        ready()
        blueprint, limits = built.blueprint, built.engine.config
        spec = blueprint.spec
        bench = StepBench(built.engine, idlers[-1], spec.vocab_size, args.seed)
        points = grid(limits.max_num_seqs, limits.max_model_len, _held(built), SPARE)
        steps = measure(bench, choose(points), seconds, args.seed, tick)
    finally:
        built.engine.close()
    assert built.memory.chunk_bytes is not None
    kernels = choose_ops(args.device, blueprint.dtype, spec.head_dim).name
    return MeasuredModel(blueprint, kernels, built.memory.chunk_bytes, steps)


def _held(built: Built) -> int:
    """Tokens of KV that may be there at once."""
    memory, dtype = built.engine.snapshot().memory, built.blueprint.dtype
    each = sum(layer.token_bytes for layer in built.blueprint.spec.layers(dtype.itemsize))
    return int(_SHARE * memory.free * memory.chunk_bytes / each)
