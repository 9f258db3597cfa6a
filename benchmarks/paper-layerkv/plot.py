"""Draw layerkv.svg from the last run."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))

from arms import ARMS, OURS

from harness.plot import lines, panels, save, styles
from harness.results import Run, Trial, load

HERE = Path(__file__).resolve().parent
# The first style is for what a figure is about.
ORDER = (OURS, *(arm for arm in ARMS if arm != OURS))
FIGURES = {"ttft_mean": "mean TTFT, s", "ttft_p99": "p99 TTFT, s", "violated": "violated, share"}
LOGARITHMIC = {"ttft_mean", "ttft_p99"}
AXES = {"context": "prompt tokens", "rate": "requests/s"}


def draw(run: Run, file: Path) -> None:
    """A row of panels for each setting and sweep."""
    rows = list(dict.fromkeys((t["setting"], t["sweep"]) for t in run["trials"]))
    figure, axes = panels(len(rows), len(FIGURES), height=2.5)
    look = styles(ORDER)
    for number, axis in enumerate(axes):
        setting, sweep = rows[number // len(FIGURES)]
        name = list(FIGURES)[number % len(FIGURES)]
        mine = [t for t in run["trials"] if (t["setting"], t["sweep"]) == (setting, sweep)]
        lines(axis, {arm: points(mine, arm, sweep, name) for arm in ORDER if had(mine, arm)}, look)
        axis.set_title(f"{setting}: {FIGURES[name]}")
        axis.set_xlabel(AXES[sweep])
        if name in LOGARITHMIC:
            axis.set_yscale("log")
        else:
            axis.set_ylim(-0.02, 1.02)
    axes[0].legend(fontsize=6.5, frameon=False, loc="upper left")
    save(figure, file, run, f"LayerKV in virtual time, seed {run['seed']}")


def points(trials: Sequence[Trial], arm: str, sweep: str, name: str) -> list[tuple[float, float]]:
    return [(trial[sweep], trial[name]) for trial in trials if trial["arm"] == arm]


def had(trials: Sequence[Trial], arm: str) -> bool:
    return any(trial["arm"] == arm for trial in trials)


if __name__ == "__main__":
    draw(load(HERE / "results.jsonl")[-1], HERE / "layerkv.svg")
