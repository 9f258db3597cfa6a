"""Which models are served, on how much memory, and what they are asked."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ellm.cli.bench.question import Question, questions
from ellm.core.errors import BudgetError
from ellm.core.units import KIB, MIB
from ellm.llm.args import EngineArgs
from ellm.llm.build import build
from ellm.sim.workload.arrivals import hastened
from ellm.sim.workload.traces import read_trace
from harness import traces
from harness.random_llama import RandomLlama

TRACE = "multimodel-prism/real_trace_27models.csv"
MODELS = 27
REQUESTS = 1500
# Prompts and answers are this much of the trace's, and what is still longer than a context is cut.
LENGTHS = 0.2
CONTEXT = 208
# The trace lasts 600 s; Prism's models give their memory back after about 45 s of it.
IDLE_SECONDS = 45.0
CHUNK = 64 * KIB

# Weights of 10 MiB each; a token of KV takes 2.5, 4 and 6 KiB.
SHAPES = (
    RandomLlama(
        name="wide", hidden=320, layers=2, heads=5, kv_heads=5, mlp=880, vocab=8192, positions=2048
    ),
    RandomLlama(
        name="even", hidden=256, layers=4, heads=4, kv_heads=4, mlp=704, vocab=8192, positions=2048
    ),
    RandomLlama(
        name="deep", hidden=192, layers=8, heads=3, kv_heads=3, mlp=512, vocab=8192, positions=2048
    ),
)
# The same in every arm: a step takes any prompt whole, and static memory sets aside no more.
LIMITS = {
    "max_model_len": CONTEXT,
    "max_num_batched_tokens": CONTEXT,
    "max_num_seqs": 16,
    "chunk_bytes": CHUNK,
    "dtype": "bfloat16",
}


def name_of(model: int) -> str:
    """What requests call a model of the trace."""
    return f"model-{model:02}"


def arguments_of(model: int, shared: dict[str, Any]) -> dict[str, Any]:
    """What `EngineArgs` takes for a model of the trace: the three shapes in turn."""
    shape = SHAPES[model % len(SHAPES)]
    own = {"model": str(shape.cached()), "served_model_name": name_of(model)}
    return {**LIMITS, **shared, **own}


def workload(seed: int, speed: float = 1.0, count: int = REQUESTS) -> list[Question]:
    """The first `count` requests of the trace, `speed` times as fast."""
    items = read_trace(traces.find(TRACE), count, scale=LENGTHS).items
    fitting = [
        replace(item, prompt_tokens=min(item.prompt_tokens, CONTEXT - item.output_tokens))
        for item in items
    ]
    return questions(hastened(fitting, speed), seed)


def smallest_share(threads: int) -> int:
    """Bytes with which a static server of any of the shapes can just start.

    That is weights, the activations of its largest step, and KV of one whole context.
    """
    return max(_smallest(shape, threads) for shape in SHAPES)


def _smallest(shape: RandomLlama, threads: int) -> int:
    low, high = 2 * shape.parameters // CHUNK, 256 * MIB // CHUNK
    while low < high:
        middle = (low + high) // 2
        args = EngineArgs(
            model=str(shape.cached()),
            memory=middle * CHUNK,
            memory_mode="static",
            threads=threads,
            **LIMITS,  # type: ignore[arg-type]
        )
        try:
            build(args).engine.close()
            high = middle
        except BudgetError:
            low = middle + 1
    return low * CHUNK
