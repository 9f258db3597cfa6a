"""Draw plan.svg from the last run of every setting: all plans that were simulated whole."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1]))

from harness.plot import STYLES, panels, save
from harness.results import Run, Trial, load

HERE = Path(__file__).resolve().parent
COLUMNS = 4


def draw(run: Run, file: Path) -> None:
    """A panel for each setting: output tokens/s against p95 TPOT."""
    trials = run["trials"]
    rows = -(-len(trials) // COLUMNS)
    figure, axes = panels(rows, COLUMNS, width=11.0, height=2.6)
    for axis, trial in zip(axes, trials, strict=False):
        panel(axis, trial)
    for axis in axes[len(trials) :]:
        axis.set_visible(False)
    axes[0].legend(fontsize=7, frameon=False)
    save(figure, file, run, f"plans simulated on the whole trace, seed {run['seed']}")


def panel(axis: Any, trial: Trial) -> None:
    points = trial["points"]
    for on_front, style, name in ((False, STYLES[2], "other"), (True, STYLES[0], "on the front")):
        chosen = [point for point in points if point["front"] == on_front]
        axis.plot(*places(chosen), style.marker, color=style.colour, ms=4, label=name)
    for name, label in (("heuristic", "heuristic"), ("best", "best")):
        (x,), (y,) = places([trial[name]])
        axis.plot([x], [y], "o", ms=10, mfc="none", mec="#b08900")
        axis.annotate(label, (x, y), (6, 4), textcoords="offset points", fontsize=7)
    factor = trial["factor"]
    said = f"{factor:.2f}x" if factor else "heuristic: none in time"
    axis.set_title(f"{trial['setting']}, {trial['objective']}: {said}", fontsize=8)
    axis.set(xlabel="p95 TPOT, ms", ylabel="output tokens/s")
    axis.set_ylim(bottom=0)
    axis.margins(x=0.2)


def places(points: Sequence[Mapping[str, Any]]) -> tuple[list[float], list[float]]:
    return [1e3 * point["tpot"] for point in points], [point["output_rate"] for point in points]


def newest(runs: Sequence[Run]) -> Run:
    """The last run, with the last trial of every setting by halving."""
    trials = {
        trial["setting"]: trial
        for run in runs
        for trial in run["trials"]
        if trial["arm"] == "halving"
    }
    return {**runs[-1], "trials": list(trials.values())}


def main() -> None:
    draw(newest(load(HERE / "results.jsonl")), HERE / "plan.svg")


if __name__ == "__main__":
    main()
