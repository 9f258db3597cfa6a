"""Decode throughput and the largest batch at one budget, against the length of the input."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1]))

from shapes import OUTPUT, QUICK, SHAPES, Shape

from harness.arm import Arm
from harness.options import parser
from harness.results import Run, Trial, append, medians, ratios
from harness.rounds import alternate
from harness.worker import Worker

HERE = Path(__file__).resolve().parent
MOST_SEQUENCES = 128
# Every sequence has half of its output when steps are measured.
REHEARSE = OUTPUT // 2
STEPS = 6
BELOW = "2GiB"
# Sequences that end all the time, so that memory moves all the time.
MANY_OUTPUTS = tuple(range(64, 192, 7))

ARMS = (
    Arm("elastic"),
    Arm("static", {"memory_mode": "static", "enable_chunked_prefill": False}),
    Arm("static-chunked", {"memory_mode": "static", "max_num_batched_tokens": 2048}),
    Arm("elastic-tier", {"kv_offloading_size": BELOW}),
)
# Measured where it is installed.
VLLM = "vLLM"
VLLM_PYTHON = Path(os.environ.get("PEERS_HOME", Path.home() / ".cache/peers")) / "vllm/bin/python"
PARTS = ("warm", "premap", "defer", "prefill", "park", "layers")
ABLATIONS = (
    Arm("elastic-tier", {"kv_offloading_size": BELOW}),
    *(Arm(f"without {part}", {"kv_offloading_size": BELOW, "ablate": [part]}) for part in PARTS),
    Arm("without any", {"kv_offloading_size": BELOW, "ablate": list(PARTS)}),
)


def opened(arm: Arm, shape: Shape, threads: int) -> Worker:
    if arm.name == VLLM:
        opening = {
            "model": str(shape.model.cached()),
            "kv_bytes": shape.budget - 2 * shape.model.parameters,
            "token_bytes": shape.model.kv_token_bytes,
            "context": shape.model.positions,
            "sequences": MOST_SEQUENCES,
            "threads": threads,
        }
        return Worker(HERE / "vllm_worker.py", opening, python=str(VLLM_PYTHON))
    return Worker(HERE / "worker.py", arguments(arm, shape, threads))


def arguments(arm: Arm, shape: Shape, threads: int) -> dict[str, Any]:
    """What the arm's worker is opened with."""
    shared = {
        "model": str(shape.model.cached()),
        "memory": shape.budget,
        "max_num_seqs": MOST_SEQUENCES,
        "enable_prefix_caching": False,
        "threads": threads,
    }
    return {
        "arguments": arm.arguments(shared),
        "work": {
            "parameters": shape.model.parameters,
            "attention_width": shape.attention_width,
        },
        "layers": shape.model.layers,
    }


def saturated(shape: Shape, length: int) -> dict[str, Any]:
    """Everybody stays: how many fit, and how fast they decode."""
    return {
        "input": length,
        "outputs": [OUTPUT],
        "requests": shape.requests(length, MOST_SEQUENCES),
        "rehearse": REHEARSE,
        "steps": STEPS,
    }


def turnover(shape: Shape, length: int) -> dict[str, Any]:
    """Somebody ends and somebody starts every few steps."""
    return {
        "input": length,
        "outputs": list(MANY_OUTPUTS),
        "requests": 4 * shape.requests(length, MOST_SEQUENCES),
        "rehearse": max(MANY_OUTPUTS),
        "steps": STEPS,
    }


def measure(
    name: str,
    shape: Shape,
    arms: list[Arm],
    questions: list[dict[str, Any]],
    rounds: int,
    threads: int,
) -> list[Trial]:
    """A process of its own for every trial: two of one arm can differ by 5 % all their lives."""
    trials: list[Trial] = []
    for question in questions:
        for turn, arm in alternate(rounds, arms):
            with opened(arm, shape, threads) as worker:
                answer = worker.ask(question)
            point = {"round": turn, "arm": arm.name, "shape": name, "input": question["input"]}
            trials.append({**point, **answer})
            told = f"{answer['batch']:g} at once, {answer['tokens_per_second']:.2f} tokens/s"
            print(f"{name} {question['input']}, {arm.name}: {told}", file=sys.stderr)
    return trials


def table(run: Run, key: str, base: str) -> str:
    """Medians of one part of a run, as Markdown; in brackets ratios to `base`."""
    point = ("shape", "input")
    speeds = medians(run[key], "tokens_per_second", point)
    times = ratios(run[key], "tokens_per_second", base, point)
    batches = medians(run[key], "batch", point)
    rows = [
        f"| model, input | arm | sequences at once | decode tokens/s (against {base}) "
        "| driver in a step, µs p50 / p99 | between steps |",
        "| --- | --- | --: | --: | --- | --- |",
    ]
    for arm, shape, length in sorted(speeds, key=lambda key: key[1:]):
        mine = [t for t in run[key] if (t["arm"], t["shape"], t["input"]) == (arm, shape, length)]
        cells = [
            " / ".join(f"{max(t[name][p] for t in mine):.0f}" for p in ("p50_us", "p99_us"))
            for name in ("critical_driver", "tidy_driver")
            if all(name in trial for trial in mine)
        ]
        ratio = times.get((arm, shape, length))
        rows.append(
            f"| {shape}, {length} | {arm} | {batches[arm, shape, length]:g} | "
            f"{speeds[arm, shape, length]:.3g}"
            + (f" ({ratio:.2f})" if ratio else "")
            + f" | {' | '.join(cells or ['', ''])} |"
        )
    return "\n".join(rows)


def main() -> None:
    known = [*ARMS, Arm(VLLM)] if VLLM_PYTHON.exists() else list(ARMS)
    options = parser(__doc__ or "", HERE, [arm.name for arm in known], rounds=2)
    options.add_argument("--shapes", default=",".join(SHAPES))
    options.add_argument("--inputs", type=int, nargs="*", help="lengths other than a shape's own")
    options.add_argument("--parts", default="arms,ablations", help="which of the two to measure")
    asked = options.parse_args()
    shapes = QUICK if asked.quick else {name: SHAPES[name] for name in asked.shapes.split(",")}
    arms = [arm for arm in known if arm.name in asked.arms]
    trials: list[Trial] = []
    ablations: list[Trial] = []
    for name, shape in shapes.items():
        if "arms" in asked.parts:
            lengths = asked.inputs or shape.inputs
            questions = [saturated(shape, length) for length in lengths]
            trials += measure(name, shape, arms, questions, asked.rounds, asked.threads)
        if "ablations" in asked.parts:
            questions = [turnover(shape, length) for length in shape.ablated]
            left_out = list(ABLATIONS[:: len(ABLATIONS) - 1] if asked.quick else ABLATIONS)
            ablations += measure(name, shape, left_out, questions, asked.rounds, asked.threads)
    run = append(
        asked.output,
        seed=asked.seed,
        threads=asked.threads,
        rounds=asked.rounds,
        budgets={name: shape.budget for name, shape in shapes.items()},
        trials=trials,
        ablations=ablations,
    )
    if trials:
        print(table(run, "trials", "static"))
    if ablations:
        print(table(run, "ablations", ABLATIONS[0].name))


if __name__ == "__main__":
    main()
