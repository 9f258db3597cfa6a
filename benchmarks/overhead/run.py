"""What elastic memory costs when nobody needs it: time to the first token, and between tokens."""

from __future__ import annotations

import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1]))

import driver_calls

from ellm.core.units import format_bytes
from harness.arm import Arm
from harness.options import parser
from harness.random_llama import LLAMA_168M
from harness.results import Run, Trial, append, medians, ratios
from harness.rounds import alternate
from harness.worker import Worker

HERE = Path(__file__).resolve().parent
ARMS = (Arm("elastic"), Arm("static", {"memory_mode": "static"}))
FIGURES = {"tpot": "between tokens", "ttft": "to the first", "ttft_after_rest": "after a rest"}
PER_STEP = ("create", "map", "unmap", "destroy", "critical_us", "tidy_us")
# Ample: neither arm is ever short of it.
MEMORY = "2GiB"


@dataclass(frozen=True, slots=True)
class Load:
    """So many times `together` requests at once."""

    model: str
    prompt: int
    output: int
    requests: int
    together: int

    @property
    def name(self) -> str:
        return f"{self.model}, {self.together} at once"

    def question(self, rng: random.Random) -> dict[str, Any]:
        prompts = [
            [[rng.randrange(3, 259) for _ in range(self.prompt)] for _ in range(self.together)]
            for _ in range(1 + self.requests)
        ]
        return {"prompts": prompts, "output": self.output}


LOADS = (
    Load("ellm-base", 256, 128, 6, 1),
    Load("ellm-base", 256, 128, 3, 4),
    Load("llama-168m", 256, 48, 2, 1),
    Load("llama-168m", 256, 48, 1, 4),
)
QUICK = (Load("ellm-base", 64, 16, 2, 1),)


def opened(arm: Arm, model: str, threads: int) -> Worker:
    path = str(LLAMA_168M.cached()) if model == "llama-168m" else model
    shared = {
        "model": path,
        "memory": MEMORY,
        "dtype": "bfloat16",
        "max_model_len": 512,
        "max_num_batched_tokens": 2048,
        "threads": threads,
    }
    return Worker(HERE / "worker.py", arm.arguments(shared))


def measure(
    loads: Sequence[Load], arms: Sequence[Arm], rounds: int, threads: int, seed: int
) -> list[Trial]:
    """In a round all arms get the same prompts.

    Each has a process of its own in every round: two processes of one arm differ by 5 %
    for as long as they live, maybe by where their memory came to lie.
    """
    models = list(dict.fromkeys(load.model for load in loads))
    trials: list[Trial] = []
    for model in models:
        mine = [load for load in loads if load.model == model]
        for number, arm in alternate(rounds, arms):
            worker = opened(arm, model, threads)
            try:
                worker.ask(mine[0].question(random.Random(f"{seed} rehearsal")))
                for load in mine:
                    answer = worker.ask(load.question(random.Random(f"{seed} {number}")))
                    point = {"round": number, "arm": arm.name, "load": load.name}
                    trials.append({**point, **answer})
            finally:
                worker.stop()
        print(f"{model}: done", file=sys.stderr)
    return trials


def table(run: Run) -> str:
    """Medians in milliseconds with ratios to static, and what a step asks of the driver."""
    rows = [
        "| load | arm | " + " | ".join(f"ms {title}" for title in FIGURES.values()) + " |",
        "| --- | --- |" + " --: |" * len(FIGURES),
    ]
    times = {name: medians(run["trials"], name, ["load"]) for name in FIGURES}
    against = {name: ratios(run["trials"], name, "static", ["load"]) for name in FIGURES}
    for key in times["tpot"]:
        cells = [f"{1e3 * times[name][key]:.2f} ({against[name][key]:.3f})" for name in FIGURES]
        rows.append(f"| {key[1]} | {key[0]} | " + " | ".join(cells) + " |")
    rows += [
        "",
        "| a step of | arm | " + " | ".join(PER_STEP) + " |",
        "| --- | --- |" + " --: |" * len(PER_STEP),
    ]
    for arm, load in times["tpot"]:
        mine = [t["per_step"] for t in run["trials"] if (t["arm"], t["load"]) == (arm, load)]
        cells = [f"{median(each[name] for each in mine):.3g}" for name in PER_STEP]
        rows.append(f"| {load} | {arm} | " + " | ".join(cells) + " |")
    return "\n".join([*rows, "", driver_calls.table(run["driver"])])


def main() -> None:
    options = parser(__doc__ or "", HERE, [arm.name for arm in ARMS], rounds=10)
    options.add_argument("--models", default="ellm-base,llama-168m", help="comma-separated")
    asked = options.parse_args()
    arms = [arm for arm in ARMS if arm.name in asked.arms]
    models = asked.models.split(",")
    loads = [load for load in (QUICK if asked.quick else LOADS) if load.model in models]
    driver = {
        format_bytes(size): driver_calls.measure(size, 50 if asked.quick else 2000)
        for size in driver_calls.SIZES
    }
    trials = measure(loads, arms, asked.rounds, asked.threads, asked.seed)
    run = append(
        asked.output,
        seed=asked.seed,
        trials=trials,
        threads=asked.threads,
        rounds=asked.rounds,
        driver=driver,
    )
    print(table(run))


if __name__ == "__main__":
    main()
