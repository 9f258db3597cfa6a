"""Measure eLLM beside transformers in alternating rounds, and append the run to results.jsonl."""

from __future__ import annotations

import os
import random
import statistics
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1]))

from worker import ENGINES, PEERS

from harness.options import parser
from harness.random_llama import LLAMA_168M
from harness.results import Trial, append, ratios
from harness.rounds import alternate
from harness.worker import Worker

HERE = Path(__file__).resolve().parent
PEERS_HOME = Path(os.environ.get("PEERS_HOME", Path.home() / ".cache/peers"))
CONCURRENCY = 16
BASELINE = "transformers"
# Measured in the first round only: at minutes a trial and far from the others, more says nothing.
SLOW = {"transformers-cb"}
FIGURES = {
    "prefill": "prefill tokens/s at 1024",
    "decode": "decode tokens/s at batch 1",
    "concurrent": f"output tokens/s, {CONCURRENCY} x 128+128",
}


def python_of(name: str) -> str:
    """The interpreter that an engine runs in."""
    return str(PEERS_HOME / name / "bin/python") if name in PEERS else sys.executable


class Engine:
    """A worker process, loaded once; trials are tokens per second by figure."""

    def __init__(self, name: str, model: Path, threads: int) -> None:
        self.name = name
        opening = {"engine": name, "model": str(model), "threads": threads}
        self._worker = Worker(HERE / "worker.py", opening, python=python_of(name))
        self.load_seconds = self._worker.load_seconds
        self.peak_rss = self._worker.load_peak_rss
        self.trials: dict[str, list[float]] = defaultdict(list)
        self.other_cpus: list[float] = []

    def seconds(self, prompts: list[list[int]], n: int) -> float:
        """Time in which the engine continues every prompt by n tokens."""
        answer = self._worker.ask({"prompts": prompts, "n": n})
        assert answer["tokens"] == n * len(prompts), (self.name, answer, n, len(prompts))
        self.peak_rss = max(self.peak_rss, answer["peak_rss"])
        self.other_cpus.append(answer["other_cpus"])
        return float(answer["seconds"])

    def warm_up(self, rng: random.Random) -> None:
        """Reach the shapes that are measured, then forget what they cost."""
        self.seconds([LLAMA_168M.prompt(1024, rng)], 2)
        self.seconds([LLAMA_168M.prompt(128, rng) for _ in range(CONCURRENCY)], 4)
        self.other_cpus.clear()

    def measure(self, rng: random.Random) -> None:
        """One trial of every figure."""
        self.trials["prefill"].append(1024 / self.seconds([LLAMA_168M.prompt(1024, rng)], 1))
        one = [LLAMA_168M.prompt(128, rng)]
        first, all_of_them = self.seconds(one, 1), self.seconds(one, 129)
        self.trials["decode"].append(128 / (all_of_them - first))
        batch = [LLAMA_168M.prompt(128, rng) for _ in range(CONCURRENCY)]
        self.trials["concurrent"].append(CONCURRENCY * 128 / self.seconds(batch, 128))

    def stop(self) -> None:
        self._worker.stop()

    def report(self) -> dict[str, Any]:
        return {
            **{name: statistics.median(self.trials[name]) for name in FIGURES},
            "peak_rss": self.peak_rss,
            "load_seconds": self.load_seconds,
            "other_cpus": statistics.median(self.other_cpus),
        }


def trials_of(engines: list[Engine]) -> list[Trial]:
    return [
        {"round": number, "arm": engine.name, name: value}
        for engine in engines
        for name in FIGURES
        for number, value in enumerate(engine.trials[name])
    ]


def ratios_of(engines: list[Engine]) -> dict[str, dict[str, float]]:
    """Median over the rounds of a figure divided by the baseline's in the same round."""
    table: dict[str, dict[str, float]] = defaultdict(dict)
    for name in FIGURES:
        for (engine,), ratio in ratios(trials_of(engines), name, BASELINE).items():
            table[engine][name] = ratio
    return dict(table)


def table(run: dict[str, Any]) -> str:
    """The run as a Markdown table."""
    head = "| engine | " + " | ".join(FIGURES.values()) + " | peak RSS |"
    rows = [head, "| --- |" + " --: |" * (len(FIGURES) + 1)]
    for engine, figures in run["engines"].items():
        cells = []
        for name in FIGURES:
            ratio = run["ratios"].get(engine, {}).get(name)
            cells.append(f"{figures[name]:.4g}" + (f" ({ratio:.2f}x)" if ratio else ""))
        rows.append(f"| {engine} | {' | '.join(cells)} | {figures['peak_rss'] / 2**30:.2f} GiB |")
    return "\n".join(rows)


def main() -> None:
    peers = [name for name in PEERS if Path(python_of(name)).exists()]
    asked = parser(__doc__ or "", HERE, [*ENGINES, *peers], rounds=5).parse_args()
    model = LLAMA_168M.cached()
    rng = random.Random(asked.seed)
    engines = []
    for name in asked.arms:
        engines.append(Engine(name, model, asked.threads))
        engines[-1].warm_up(rng)
        print(f"{name} loaded in {engines[-1].load_seconds:.1f} s", file=sys.stderr)
    for number, engine in alternate(asked.rounds, engines):
        if number and engine.name in SLOW:
            continue
        engine.measure(rng)
        latest = ", ".join(f"{name} {engine.trials[name][-1]:.4g}" for name in FIGURES)
        print(f"round {number + 1}, {engine.name}: {latest}", file=sys.stderr)
    for engine in engines:
        engine.stop()
    run = append(
        asked.output,
        seed=asked.seed,
        trials=trials_of(engines),
        threads=asked.threads,
        rounds=asked.rounds,
        ratios=ratios_of(engines),
        engines={engine.name: engine.report() for engine in engines},
    )
    print(table(run))


if __name__ == "__main__":
    main()
