"""Draw validation.svg from the last run: simulated against measured, a mark for each workload."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1]))

from compared import METRICS, STATISTICS

from harness.plot import panels, save, styles
from harness.results import Run, Trial, load

HERE = Path(__file__).resolve().parent
TITLES = {"ttft": "TTFT", "tpot": "TPOT", "e2e": "E2E"}
# By so much the band around the diagonal goes up and down.
BAND = 0.1


def draw(run: Run, file: Path) -> None:
    """A panel for each metric; every statistic of every workload is a point."""
    arms = list(dict.fromkeys(trial["arm"] for trial in run["trials"]))
    figure, axes = panels(1, len(METRICS), height=3.2)
    for axis, metric in zip(axes, METRICS, strict=True):
        points = {arm: pairs([t for t in run["trials"] if t["arm"] == arm], metric) for arm in arms}
        scatter(axis, points)
        axis.set_title(f"{TITLES[metric]}, ms: mean, median, p90, p99")
        axis.set_xlabel("measured")
    axes[0].set_ylabel("simulated")
    axes[0].legend(fontsize=7, frameon=False, loc="upper left")
    threads = "one thread" if run["threads"] == 1 else f"{run['threads']} threads"
    caption = f"simulated against measured, {threads} computing, the band is ±10 %"
    save(figure, file, run, caption)


def pairs(trials: Sequence[Trial], metric: str) -> list[tuple[float, float]]:
    return [
        (trial["measured"][metric][name], trial["simulated"][metric][name])
        for trial in trials
        for name in STATISTICS
    ]


def scatter(axis: Any, points: dict[str, list[tuple[float, float]]]) -> None:
    values = [value for each in points.values() for pair in each for value in pair]
    ends = [min(values) / 1.2, max(values) * 1.2]
    axis.plot(ends, ends, color="#9aa5b1", linewidth=0.8)
    low, high = ([end * (1 + sign * BAND) for end in ends] for sign in (-1, 1))
    axis.fill_between(ends, low, high, color="#9aa5b1", alpha=0.25, linewidth=0)
    for name, style in styles(list(points)).items():
        xs, ys = zip(*points[name], strict=True)
        axis.scatter(xs, ys, s=9, label=name, color=style.colour, marker=style.marker, alpha=0.7)
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_xlim(ends)
    axis.set_ylim(ends)


def newest(runs: Sequence[Run]) -> Run:
    """The last run, with the trials of every arm's last."""
    last = {trial["arm"]: run for run in runs for trial in run["trials"]}
    trials = [t for arm, run in last.items() for t in run["trials"] if t["arm"] == arm]
    return {**runs[-1], "trials": trials}


if __name__ == "__main__":
    draw(newest(load(HERE / "results.jsonl")), HERE / "validation.svg")
