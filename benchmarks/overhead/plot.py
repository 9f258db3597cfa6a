"""Draw overhead.svg from the last run of each load in results.jsonl, or in a given file."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))

from run import FIGURES

from harness.plot import panels, save, styles
from harness.results import Run, Trial, load

HERE = Path(__file__).resolve().parent
TARGETS = {"tpot": 1.02, "ttft": 1.03}


def latest(runs: Sequence[Run]) -> list[Trial]:
    """The trials of each load in the last run that measured it."""
    found: dict[str, list[Trial]] = {}
    for run in runs:
        for what in {trial["load"] for trial in run["trials"]}:
            found[what] = [trial for trial in run["trials"] if trial["load"] == what]
    return [trial for what in sorted(found) for trial in found[what]]


def main() -> None:
    file = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "results.jsonl"
    runs = load(file)
    run, trials = runs[-1], latest(runs)
    loads = list(dict.fromkeys(trial["load"] for trial in trials))
    static = {(t["load"], t["round"]): t for t in trials if t["arm"] == "static"}
    figure, axes = panels(1, len(FIGURES), width=10)
    look = styles(loads)
    for axis, (name, title) in zip(axes, FIGURES.items(), strict=True):
        axis.axvline(1, color="#323f4b", linewidth=0.8)
        if name in TARGETS:
            axis.axvline(TARGETS[name], color="#9aa5b1", linewidth=0.8, linestyle=":")
        for row, what in enumerate(loads):
            points = [
                trial[name] / static[what, trial["round"]][name]
                for trial in trials
                if trial["arm"] == "elastic" and trial["load"] == what
            ]
            axis.boxplot([points], positions=[row], orientation="horizontal", widths=0.5)
            axis.plot(points, [row] * len(points), look[what].marker, color=look[what].colour)
        axis.set_yticks(range(len(loads)), loads if axis is axes[0] else [])
        axis.invert_yaxis()
        axis.set_title(f"time {title}")
        axis.set_xlabel("elastic / static, in every round")
    rounds = run["rounds"]
    caption = f"low load, bf16, {run['threads']} threads, {rounds} rounds in the last run"
    save(figure, HERE / "overhead.svg", run, caption)


if __name__ == "__main__":
    main()
