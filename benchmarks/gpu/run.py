"""Measure what a step of Llama-3-8B takes on a GPU, and append the run to results.jsonl."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1]))

import kernels
import torch
from random_model import LLAMA_8B, describe_in, install

from ellm.core.executor import Executor
from ellm.core.load import StepLoad
from ellm.kernels.cuda.ops import CudaOps
from ellm.kernels.reference import ReferenceOps
from ellm.llm import build as composition
from ellm.llm.args import EngineArgs
from ellm.llm.build import build
from ellm.llm.profiling.engine import plain
from ellm.llm.profiling.grid import Point
from ellm.llm.profiling.steps import Idler, StepBench
from harness.options import parser
from harness.results import Trial, append, medians

HERE = Path(__file__).resolve().parent
CONTEXT = 1024
BATCHES, PROMPTS = (1, 16, 64, 256), (2048, 8192)
POINTS = (
    *(Point(prompts=1, tokens=tokens) for tokens in PROMPTS),
    *(Point(decoding=batch, context=CONTEXT) for batch in BATCHES),
)


class Eager(CudaOps):
    """Launches every kernel of every step."""

    def trace(self, *_: object) -> None:
        return None


ARMS = {"graph": CudaOps, "eager": Eager, "reference": ReferenceOps}


def steps(arm: str, model: Path, seed: int, repeats: int) -> Iterator[Trial]:
    """Every point, by an engine of its own."""
    start = perf_counter()
    composition.choose_ops = lambda *_: ARMS[arm]()
    idlers: list[Idler] = []

    def around(runner: Executor) -> Executor:
        idlers.append(Idler(runner))
        return idlers[-1]

    args = EngineArgs(
        model=str(model),
        device="cuda",
        dtype="bfloat16",
        memory="60GiB",
        max_model_len=2 * max(PROMPTS),
        max_num_seqs=max(BATCHES),
        max_num_batched_tokens=max(PROMPTS),
    )
    engine = build(plain(args), around=around).engine
    print(f"{arm}: an engine after {perf_counter() - start:.1f} s", flush=True)
    bench = StepBench(engine, idlers[-1], 2048, seed)
    for point in POINTS:
        found = bench.visit(point, 2 if arm == "reference" or point.prompts else repeats)
        for load, seconds in found:
            kind = "prompt" if point.prompts else "decode"
            size = point.tokens or point.decoding
            ms = round(1e3 * seconds, 3)
            yield {"round": 0, "arm": arm, "kind": kind, "size": size, "ms": ms, "load": load}
    engine.close()


def floor(load: StepLoad, bytes_a_second: float, operations_a_second: float) -> float:
    """Milliseconds that weights and KV take to be read, or products to be computed."""
    shape = LLAMA_8B
    weights = shape.parameters - shape.vocab * shape.hidden
    layers = weights - shape.vocab * shape.hidden
    read = 2 * weights + load.kv_tokens * shape.kv_token_bytes
    pairs = 4 * load.attention * shape.heads * shape.head_dim * shape.layers
    computed = 2 * layers * load.tokens + pairs
    return 1e3 * max(read / bytes_a_second, computed / operations_a_second)


def table(trials: list[dict[str, Any]], floors: dict[tuple[str, int], float]) -> str:
    found = medians(trials, "ms", ["kind", "size"])
    rows = ["| step | arm | ms | tokens/s | of the floor |", "| --- | --- | --: | --: | --: |"]
    for (arm, kind, size), ms in found.items():
        share = floors[kind, size] / ms
        rows.append(f"| {kind} {size} | {arm} | {ms:.2f} | {1e3 * size / ms:.0f} | {share:.0%} |")
    return "\n".join(rows)


def main() -> None:
    asked = parser(__doc__ or "", HERE, tuple(ARMS), rounds=1).parse_args()
    began = perf_counter()
    install()
    bandwidth, rate = kernels.device()
    print(f"{bandwidth / 1e9:.0f} GB/s, {rate / 1e12:.0f} TFLOP/s", flush=True)
    single = []
    for found in kernels.all_of_them():
        print(found, flush=True)
        single.append(found)
    kernels._room.clear()
    torch.cuda.empty_cache()
    trials: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as place:
        model = describe_in(Path(place), LLAMA_8B)
        for arm in asked.arms:
            for trial in steps(arm, model, asked.seed, 3 if asked.quick else 12):
                trials.append(trial)
                print(trial, flush=True)
            print(f"{perf_counter() - began:.0f} s so far", flush=True)
    floors = {
        (trial["kind"], trial["size"]): floor(trial["load"], bandwidth, rate) for trial in trials
    }
    append(
        asked.output,
        seed=asked.seed,
        trials=trials,
        kernels=single,
        device=torch.cuda.get_device_name(),
        gb_s=round(bandwidth / 1e9),
        tflops=round(rate / 1e12),
    )
    print(table(trials, floors))


if __name__ == "__main__":
    main()
