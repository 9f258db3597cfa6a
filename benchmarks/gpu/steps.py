"""Whole steps of the engine: plan, execute, commit, with the tokens on the host."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from pathlib import Path
from time import perf_counter

import torch

from ellm.core.executor import Executor
from ellm.core.load import StepLoad
from ellm.kernels.cuda.ops import CudaOps
from ellm.kernels.ops import Ops
from ellm.kernels.reference import ReferenceOps
from ellm.llm import build as composition
from ellm.llm.args import EngineArgs
from ellm.llm.build import build
from ellm.llm.profiling.engine import plain
from ellm.llm.profiling.grid import Point
from ellm.llm.profiling.steps import Idler, StepBench

# What is left of a vocabulary for prompts.
IDS = 2048
choose_ops = composition.choose_ops


class Eager(CudaOps):
    """Launches every kernel of every step."""

    def trace(self, *_: object) -> None:
        return None


GPU_ARMS: dict[str, type[Ops]] = {"graph": CudaOps, "eager": Eager, "reference": ReferenceOps}


def ops_of(arm: str, device: str) -> Ops | None:
    """The op table of an arm; None is the engine's own choice, which is `graph`."""
    if device == "cpu":
        return None if arm == "graph" else ReferenceOps()
    return GPU_ARMS[arm]()


def measured(
    arm: str,
    model: Path,
    device: str,
    memory: str,
    points: Sequence[Point],
    repeats: int,
    seed: int,
) -> Iterator[tuple[Point, StepLoad, float]]:
    """Every point's steps, with their milliseconds, by an engine of its own."""
    start = perf_counter()
    ops = ops_of(arm, device)
    composition.choose_ops = choose_ops if ops is None else lambda *_: ops
    idlers: list[Idler] = []

    def around(runner: Executor) -> Executor:
        idlers.append(Idler(runner))
        return idlers[-1]

    largest = max(point.tokens for point in points) or None
    args = EngineArgs(
        model=str(model),
        load_format="dummy",
        device=device,
        dtype="bfloat16",
        memory=memory,
        max_model_len=2 * max(largest or 0, *(point.context for point in points)),
        max_num_seqs=max(1, *(point.decoding for point in points)),
        max_num_batched_tokens=largest,
    )
    engine = build(plain(args), around=around).engine
    print(f"{arm}: an engine after {perf_counter() - start:.1f} s", flush=True)
    bench = StepBench(engine, idlers[-1], IDS, seed)
    for point in points:
        for load, seconds in bench.visit(point, 2 if point.prompts else repeats):
            yield point, load, 1e3 * seconds
    engine.close()
    composition.choose_ops = choose_ops
    del engine, bench
    idlers.clear()
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()
