"""Measure what a step takes on a GPU, and append the run to results.jsonl."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1]))

import torch
from peers import alone, in_transformers, ours_in_pytorch, transformers_steps
from steps import measured

from ellm.core.load import StepLoad
from ellm.llm.profiling.grid import Point
from harness.options import parser
from harness.random_llama import LLAMA_8B, LLAMA_HALF_B, LLAMA_TINY, RandomLlama
from harness.results import Trial, append, medians, ratios

HERE = Path(__file__).resolve().parent
ARMS = ("graph", "eager", "reference", "transformers")
# Of one sequence of a small model: what launches cost.
OURS, PEERS = ("graph", "eager"), ("plain", "compile")
# With whom a part compares.
BASES = {"8b": ("transformers",), "launches": PEERS}
PARTS = ("kernels", "8b", "launches")
PEER_BATCHES = (1, 64, 256)


class Plan:
    """What is measured: on a GPU the real thing, else and where quick something tiny."""

    def __init__(self, asked: argparse.Namespace) -> None:
        self.device, self.seed, self.quick = asked.device, asked.seed, asked.quick
        self.arms = [arm for arm in asked.arms if arm != "transformers"]
        self.peers = "transformers" in asked.arms
        tiny = asked.device == "cpu"
        self.context = 64 if tiny else 1024
        self.batches = (1, 4) if tiny else (1, 16, 64, 256)
        self.prompts = (128, 256) if tiny else (2048, 8192)
        self.peer_batches = (1, 2) if tiny else PEER_BATCHES
        self.memory = "512MiB" if tiny else "60GiB"
        self.large = LLAMA_TINY if tiny else LLAMA_8B
        self.small = LLAMA_TINY if tiny else LLAMA_HALF_B

    def repeats(self, arm: str) -> int:
        return 2 if arm == "reference" else 3 if self.quick else 12

    def large_steps(self, model: Path) -> Iterator[Trial]:
        """Every batch and prompt of the 8 B shape, by all arms."""
        points = [
            *(Point(prompts=1, tokens=tokens) for tokens in self.prompts),
            *(Point(decoding=batch, context=self.context) for batch in self.batches),
        ]
        for arm in self.arms:
            rounds = self.repeats(arm)
            for point, load, ms in measured(
                arm, model, self.device, self.memory, points, rounds, self.seed
            ):
                kind = "prompt" if point.prompts else "decode"
                yield trial("8b", arm, kind, point.tokens or point.decoding, ms, load)
        if self.peers and in_transformers():
            with alone("transformers"):
                for batch, ms, compiled in transformers_steps(
                    self.large, self.peer_batches, self.context, self.device, self.quick
                ):
                    found = trial("8b", "transformers", "decode", batch, ms)
                    yield {**found, "compiled": compiled}

    def small_steps(self, model: Path) -> Iterator[Trial]:
        """One sequence of the 0.5 B shape."""
        point = Point(decoding=1, context=self.context)
        for arm in OURS:
            rounds = self.repeats(arm)
            for _, load, ms in measured(
                arm, model, self.device, "8GiB" if self.device == "cuda" else self.memory,
                [point], rounds, self.seed,
            ):  # fmt: skip
                yield trial("launches", arm, "decode", 1, ms, load)
        for arm in PEERS:
            with alone(arm):
                ms = ours_in_pytorch(
                    self.small, self.context, self.device, arm == "compile", self.quick
                )
                yield trial("launches", arm, "decode", 1, ms)


def trial(
    part: str, arm: str, kind: str, size: int, ms: float, load: StepLoad | None = None
) -> Trial:
    found = {"round": 0, "part": part, "arm": arm, "kind": kind, "size": size, "ms": round(ms, 3)}
    return found if load is None else {**found, "load": load}


def floor(shape: RandomLlama, load: StepLoad, read: float, multiplied: float) -> float:
    """Milliseconds that weights and KV take to be read at so many bytes a second, or products to be
    computed at so many operations."""
    head = shape.vocab * shape.hidden
    layers = shape.parameters - head - (0 if shape.tied else head)
    nbytes = 2 * (layers + head) + load.kv_tokens * shape.kv_token_bytes
    pairs = 4 * load.attention * shape.heads * shape.head_dim * shape.layers
    computed = 2 * layers * load.tokens + pairs
    return 1e3 * max(nbytes / read, computed / multiplied)


def device_limits(device: str) -> tuple[float, float]:
    """Bytes and operations a second: one large product each, of one row and of many."""
    if device == "cuda":
        import kernels

        return kernels.device()
    matrix, rows = torch.randn(4096, 4096), torch.randn(256, 4096)
    seconds = []
    for many in (rows[:1], rows):
        start = perf_counter()
        torch.mm(many, matrix)
        seconds.append(perf_counter() - start)
    return matrix.nbytes / seconds[0], 2 * rows.numel() * 4096 / seconds[1]


def table(part: str, trials: list[Trial], floors: dict[tuple[str, int], float]) -> str:
    """Medians of one part, beside the floor and whoever it is compared with."""
    mine = [each for each in trials if each["part"] == part]
    bases = {base: ratios(mine, "ms", base, ["kind", "size"]) for base in BASES[part]}
    titles = [
        part,
        "arm",
        "ms",
        "tokens/s",
        "of the floor",
        *(f"times as fast as {b}" for b in bases),
    ]
    rows = [f"| {' | '.join(titles)} |", "| --- | --- |" + " --: |" * (len(titles) - 2)]
    for (arm, kind, size), ms in medians(mine, "ms", ["kind", "size"]).items():
        share = f"{floors[kind, size] / ms:.0%}" if (kind, size) in floors else ""
        slower = [found.get((arm, kind, size)) for found in bases.values()]
        times = [f"{1 / ratio:.2f}" if ratio else "" for ratio in slower]
        cells = [f"{kind} {size}", arm, f"{ms:.2f}", f"{1e3 * size / ms:.0f}", share, *times]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def single_kernels(device: str) -> list[dict[str, Any]]:
    if device == "cpu":
        return []
    import kernels

    found = []
    for each in kernels.all_of_them():
        print(each, flush=True)
        found.append(each)
    kernels._room.clear()
    torch.cuda.empty_cache()
    return found


def measure(
    asked: argparse.Namespace, place: Path, trials: list[Trial], single: list[dict[str, Any]]
) -> None:
    """Everything asked for, into lists that are good for something at any time."""
    began, plan = perf_counter(), Plan(asked)
    works = {
        "launches": lambda: plan.small_steps(plan.small.described_in(place / "small")),
        "8b": lambda: plan.large_steps(plan.large.described_in(place / "large")),
    }
    for part in asked.parts:
        if part == "kernels":
            single += single_kernels(asked.device)
            continue
        for found in works[part]():
            trials.append(found)
            print(found, flush=True)
        print(f"{perf_counter() - began:.0f} s so far", flush=True)


def main() -> None:
    options = parser(__doc__ or "", HERE, ARMS, rounds=1)
    options.with_device()
    options.with_parts(PARTS)
    asked = options.parse_args()
    bandwidth, rate = device_limits(asked.device)
    print(f"{bandwidth / 1e9:.0f} GB/s, {rate / 1e12:.3g} TFLOP/s", flush=True)
    trials: list[Trial] = []
    single: list[dict[str, Any]] = []
    try:
        with tempfile.TemporaryDirectory() as place:
            measure(asked, Path(place), trials, single)
    finally:
        append(
            asked.output,
            seed=asked.seed,
            trials=trials,
            kernels=single,
            device=torch.cuda.get_device_name() if asked.device == "cuda" else "cpu",
            gb_s=round(bandwidth / 1e9),
            tflops=round(rate / 1e12),
        )
        shapes = {"8b": Plan(asked).large, "launches": Plan(asked).small}
        for part, shape in shapes.items():
            mine = [each for each in trials if each["part"] == part]
            floors = {
                (each["kind"], each["size"]): floor(shape, each["load"], bandwidth, rate)
                for each in mine
                if "load" in each
            }
            if mine:
                print(table(part, mine, floors))


if __name__ == "__main__":
    main()
