"""Play real training steps to three allocators, and append the run to results.jsonl."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1]))

import traces
from contenders import CONTENDERS, Played, play, smallest_device

from harness.options import parser
from harness.results import append

HERE = Path(__file__).resolve().parent
OURS = "stitching"
CAPACITY = 1 << 34


def recorded(again: bool, seed: int) -> dict[str, Path]:
    """The traces, by model and strategy; those that are missing are recorded, a minute each."""
    import torch
    from recording import record
    from training import HOST, STRATEGIES, WORKLOADS, train

    torch.set_num_threads(1)
    paths = {}
    for workload in WORKLOADS:
        for strategy in STRATEGIES:
            name = f"{workload.model} {strategy}"
            path = paths[name] = HERE / f"traces/{workload.model}-{strategy}-{seed}.gz"
            if again or not path.exists():
                print(f"recording {name}", file=sys.stderr)
                traces.save(record(partial(train, workload, strategy, seed), HOST), path)
    return paths


def measure(trace: traces.Trace, rounds: int) -> dict[str, Any]:
    """Every figure of one trace, by allocator; the median time of alternating rounds."""
    played: dict[str, list[Played]] = {name: [] for name in CONTENDERS}
    for _ in range(rounds):
        for name, results in played.items():
            result = play(name, trace, CAPACITY)
            assert result is not None, name
            results.append(result)
    peak = traces.peak_bytes(trace)
    figures: dict[str, Any] = {"events": len(trace), "peak_active": peak}
    for name, results in played.items():
        last = results[-1]
        figures[name] = asdict(last) | {
            "microseconds": statistics.median(result.microseconds for result in results),
            "fragmentation": 1 - peak / last.peak_reserved,
            "smallest_device": smallest_device(name, trace, last.peak_reserved),
        }
    return figures


def summary(results: dict[str, Any]) -> dict[str, float]:
    """Points of fragmentation below the others; the worst case beside expandable segments."""

    def below(name: str) -> list[float]:
        return [
            100 * (r[name]["fragmentation"] - r[OURS]["fragmentation"]) for r in results.values()
        ]

    return {
        "below_caching_mean": statistics.mean(below("caching")),
        "below_caching_best": max(below("caching")),
        "below_caching_worst": min(below("caching")),
        "below_expandable_mean": statistics.mean(below("expandable")),
        "below_expandable_worst": min(below("expandable")),
    }


def table(results: dict[str, Any]) -> str:
    """The run as a Markdown table; each cell is caching / expandable / stitching."""
    columns: dict[str, tuple[str, Callable[[Any], str]]] = {
        "reserved MiB": ("peak_reserved", lambda v: f"{v / 2**20:.0f}"),
        "fragmentation": ("fragmentation", lambda v: f"{v:.1%}"),
        "smallest device MiB": ("smallest_device", lambda v: f"{v / 2**20:.0f}"),
        "driver calls": ("calls", str),
        "in the second half": ("late_calls", str),
        "us each": ("microseconds", lambda v: f"{v:.1f}"),
    }
    rows = ["| trace | active MiB | " + " | ".join(columns) + " |"]
    rows.append("| --- | --: |" + " --: |" * len(columns))
    for trace, figures in results.items():
        cells = [
            " / ".join(shown(figures[name][key]) for name in CONTENDERS)
            for key, shown in columns.values()
        ]
        rows.append(f"| {trace} | {figures['peak_active'] / 2**20:.0f} | {' | '.join(cells)} |")
    return "\n".join(rows)


def main() -> None:
    options = parser(__doc__ or "", HERE, list(CONTENDERS), rounds=3)
    options.add_argument("--record", action="store_true", help="record the traces again")
    asked = options.parse_args()
    results = {}
    for name, path in recorded(asked.record, asked.seed).items():
        results[name] = measure(traces.load(path), asked.rounds)
        print(f"{name} played", file=sys.stderr)
        if asked.quick:
            break
    run = append(
        asked.output,
        seed=asked.seed,
        trials=(),
        rounds=asked.rounds,
        summary=summary(results),
        results=results,
    )
    print(table(results))
    print({name: round(value, 1) for name, value in run["summary"].items()})


if __name__ == "__main__":
    main()
