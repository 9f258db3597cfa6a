"""Measure eLLM beside transformers in alternating rounds, and append the run to results.jsonl."""

from __future__ import annotations

import argparse
import json
import random
import shlex
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import checkpoint
import machine
from worker import ENGINES

HERE = Path(__file__).resolve().parent
CONCURRENCY = 16
BASELINE = "transformers"
# Measured in the first round only: at minutes a trial and far from the others, more says nothing.
SLOW = {"transformers-cb"}
FIGURES = {
    "prefill": "prefill tokens/s at 1024",
    "decode": "decode tokens/s at batch 1",
    "concurrent": f"output tokens/s, {CONCURRENCY} x 128+128",
}


class Engine:
    """A worker process, loaded once; trials are tokens per second by figure."""

    def __init__(self, name: str, model: Path, threads: int, log_dir: Path) -> None:
        self.name = name
        self.log = log_dir / f"{name}.log"
        with self.log.open("w") as log:
            self._process = subprocess.Popen(
                [sys.executable, str(HERE / "worker.py"), name, str(model), str(threads)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        self.load_seconds = float(self._read()["load_seconds"])
        self.peak_rss = 0
        self.trials: dict[str, list[float]] = defaultdict(list)
        self.other_cpus: list[float] = []

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"error: {self.name} stopped; its log is {self.log}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def seconds(self, prompts: list[list[int]], n: int) -> float:
        """Time in which the engine continues every prompt by n tokens."""
        assert self._process.stdin is not None
        before, start = machine.busy_seconds(), time.perf_counter()
        self._process.stdin.write(json.dumps({"prompts": prompts, "n": n}) + "\n")
        self._process.stdin.flush()
        answer = self._read()
        wall = time.perf_counter() - start
        assert answer["tokens"] == n * len(prompts), (self.name, answer, n, len(prompts))
        self.peak_rss = max(self.peak_rss, answer["peak_rss"])
        others = machine.busy_seconds() - before - answer["cpu"]
        self.other_cpus.append(max(others, 0.0) / wall)
        return float(answer["seconds"])

    def warm_up(self, rng: random.Random) -> None:
        """Reach the shapes that are measured, then forget what they cost."""
        self.seconds([prompt(1024, rng)], 2)
        self.seconds([prompt(128, rng) for _ in range(CONCURRENCY)], 4)
        self.other_cpus.clear()

    def measure(self, rng: random.Random) -> None:
        """One trial of every figure."""
        self.trials["prefill"].append(1024 / self.seconds([prompt(1024, rng)], 1))
        one = [prompt(128, rng)]
        first, all_of_them = self.seconds(one, 1), self.seconds(one, 129)
        self.trials["decode"].append(128 / (all_of_them - first))
        batch = [prompt(128, rng) for _ in range(CONCURRENCY)]
        self.trials["concurrent"].append(CONCURRENCY * 128 / self.seconds(batch, 128))

    def stop(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()

    def report(self) -> dict[str, Any]:
        return {
            **{name: statistics.median(self.trials[name]) for name in FIGURES},
            "peak_rss": self.peak_rss,
            "load_seconds": self.load_seconds,
            "other_cpus": statistics.median(self.other_cpus),
            "trials": dict(self.trials),
        }


def prompt(length: int, rng: random.Random) -> list[int]:
    return [rng.randrange(3, checkpoint.VOCABULARY) for _ in range(length)]


def ratios(engines: list[Engine]) -> dict[str, dict[str, float]]:
    """Median over the rounds of a figure divided by the baseline's in the same round."""
    base = next((engine for engine in engines if engine.name == BASELINE), None)
    if base is None:
        return {}
    return {
        engine.name: {
            name: statistics.median(
                mine / theirs
                for mine, theirs in zip(engine.trials[name], base.trials[name], strict=False)
            )
            for name in FIGURES
        }
        for engine in engines
    }


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


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--engines", default=",".join(ENGINES))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=HERE / "results.jsonl")
    return parser.parse_args()


def main() -> None:
    asked = arguments()
    model = checkpoint.cached()
    rng = random.Random(asked.seed)
    engines = []
    for name in asked.engines.split(","):
        engines.append(Engine(name, model, asked.threads, model.parent))
        engines[-1].warm_up(rng)
        print(f"{name} loaded in {engines[-1].load_seconds:.1f} s", file=sys.stderr)
    for number in range(asked.rounds):
        turn = number % len(engines)
        for engine in engines[turn:] + engines[:turn]:
            if number and engine.name in SLOW:
                continue
            engine.measure(rng)
            latest = ", ".join(f"{name} {engine.trials[name][-1]:.4g}" for name in FIGURES)
            print(f"round {number + 1}, {engine.name}: {latest}", file=sys.stderr)
    for engine in engines:
        engine.stop()
    run = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": machine.commit(),
        "machine": machine.describe(),
        "command": shlex.join(["python", "benchmarks/engine/run.py", *sys.argv[1:]]),
        "seed": asked.seed,
        "threads": asked.threads,
        "rounds": asked.rounds,
        "ratios": ratios(engines),
        "engines": {engine.name: engine.report() for engine in engines},
    }
    with asked.output.open("a", encoding="utf-8") as file:
        file.write(json.dumps(run) + "\n")
    print(table(run))


if __name__ == "__main__":
    main()
