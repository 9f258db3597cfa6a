"""Measure what a step costs beside its kernels, and append the run to results.jsonl."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))

from worker import ENGINES

from harness.options import parser
from harness.random_llama import RandomLlama
from harness.results import Run, Trial, append, medians, ratios
from harness.rounds import alternate
from harness.worker import Worker

HERE = Path(__file__).resolve().parent
# The bundled model's layers, so narrow that arithmetic takes no time: what is left is overhead.
NARROW = RandomLlama(
    name="llama-narrow", hidden=48, layers=6, heads=6, kv_heads=2, head_dim=8, mlp=64, vocab=512
)
BATCHES = (1, 16, 256, 1000)


def narrow(arms: tuple[str, ...], rounds: int, steps: int, threads: int) -> list[Trial]:
    """Whole steps of one sequence on the narrow model, by every arm."""
    model = str(NARROW.cached())
    workers = {
        arm: Worker(HERE / "worker.py", {"engine": arm, "model": model, "threads": threads})
        for arm in arms
    }
    trials: list[Trial] = []
    for worker in workers.values():
        worker.ask({"batch": 1, "steps": steps})
    for number, arm in alternate(rounds, list(workers)):
        answer = workers[arm].ask({"batch": 1, "steps": steps})
        trials.append({"round": number, "arm": arm, "model": "narrow", "batch": 1, **answer})
    for worker in workers.values():
        worker.stop()
    return trials


def bundled(rounds: int, steps: int, threads: int, batches: tuple[int, ...]) -> list[Trial]:
    """Steps of the bundled model in ellm, and their kernels."""
    opening = {"engine": "ellm", "model": "ellm-base", "threads": threads}
    trials: list[Trial] = []
    with Worker(HERE / "worker.py", opening) as worker:
        for number in range(-1, rounds):
            for batch in batches:
                answer = worker.ask({"batch": batch, "steps": steps})
                beside = answer["step_us"] - answer["kernels_us"]
                trial = {"round": number, "arm": "ellm", "model": "bundled", "batch": batch}
                if number >= 0:
                    trials.append({**trial, **answer, "beside_us": beside})
    return trials


def table(run: Run) -> str:
    """Medians, in microseconds."""
    small = [trial for trial in run["trials"] if trial["model"] == "narrow"]
    whole, against = medians(small, "step_us"), ratios(small, "step_us", "ellm")
    rows = ["| narrow model, batch 1 | µs a step (ellm = 1) |", "| --- | --: |"]
    for arm, us in whole.items():
        ratio = f" ({against[arm]:.1f})" if arm in against else ""
        rows.append(f"| {arm[0]} | {us:.0f}{ratio} |")
    large = [trial for trial in run["trials"] if trial["model"] == "bundled"]
    beside, step = medians(large, "beside_us", ["batch"]), medians(large, "step_us", ["batch"])
    rows += ["", "| bundled model, batch | µs a step | beside kernels | a sequence |"]
    rows += ["| --: | --: | --: | --: |"]
    for arm, batch in step:
        us = beside[arm, batch]
        rows.append(f"| {batch} | {step[arm, batch]:.0f} | {us:.0f} | {us / batch:.1f} |")
    return "\n".join(rows)


def main() -> None:
    asked = parser(__doc__ or "", HERE, tuple(ENGINES), rounds=5).parse_args()
    steps, batches = (8, BATCHES[:2]) if asked.quick else (64, BATCHES)
    trials = narrow(asked.arms, asked.rounds, steps, asked.threads)
    trials += bundled(asked.rounds, steps, asked.threads, batches)
    run = append(asked.output, seed=asked.seed, threads=asked.threads, trials=trials)
    print(table(run))


if __name__ == "__main__":
    main()
