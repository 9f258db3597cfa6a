"""Draw pagedattention.svg from the last run."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1]))

from compared import LIMIT, fullest
from contenders import CONTENDERS

from harness.plot import Style, bars, lines, panels, save, styles
from harness.results import Run, Trial, load

HERE = Path(__file__).resolve().parent
# The first style is for what a figure is about.
ORDER = tuple(reversed(CONTENDERS))
MOST_LATENCY = 1.0
# Parts of the memory for KV, and how they are drawn.
PARTS = {
    "tokens": ("token states", "#0b6e4f", ""),
    "later": ("reserved for later", "#52b788", "//"),
    "never": ("reserved for none", "#b08900", "xx"),
}


def draw(run: Run, file: Path) -> None:
    """A row for each workload: latency by rate, who shares a step, and what memory holds."""
    names = list(dict.fromkeys(trial["workload"] for trial in run["trials"]))
    figure, axes = panels(len(names), 3)
    look = styles(ORDER)
    for number, name in enumerate(names):
        trials = [trial for trial in run["trials"] if trial["workload"] == name]
        _latency(axes[3 * number], name, trials, look)
        full = fullest(trials)
        at = {arm: full[arm] for arm in CONTENDERS if arm in full}
        bars(axes[3 * number + 1], {arm: trial["batched"] for arm, trial in at.items()}, look)
        axes[3 * number + 1].set_title(f"{name}: sequences at once, memory full")
        _memory(axes[3 * number + 2], name, at)
    axes[0].legend(fontsize=6.5, frameon=False, loc="upper left")
    below = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.1), "ncol": len(PARTS)}
    axes[2].legend(fontsize=6.5, frameon=False, **below)
    save(figure, file, run, f"OPT-13B on one A100, in virtual time, seed {run['seed']}")


def _latency(axis: Any, name: str, trials: Sequence[Trial], look: dict[str, Style]) -> None:
    series = {
        arm: [(t["rate"], t["normalized_latency"]) for t in trials if t["arm"] == arm]
        for arm in ORDER
    }
    lines(axis, {arm: points for arm, points in series.items() if points}, look)
    axis.axhline(LIMIT, color="#9aa5b1", linewidth=0.8, zorder=0)
    axis.set_ylim(0, MOST_LATENCY)
    axis.set_xlim(left=0)
    axis.set_title(f"{name}: normalised latency, s/token")
    axis.set_xlabel("requests/s")


def _memory(axis: Any, name: str, at: dict[str, Trial]) -> None:
    arms, left = list(at), [0.0] * len(at)
    for part, (label, colour, hatch) in PARTS.items():
        widths = [100 * at[arm][part] for arm in arms]
        axis.barh(
            arms, widths, left=left, label=label, color=colour, hatch=hatch, edgecolor="white"
        )
        left = [a + b for a, b in zip(left, widths, strict=True)]
    axis.set_xlim(0, 100)
    axis.invert_yaxis()
    axis.set_title(f"{name}: memory for KV, %")


if __name__ == "__main__":
    draw(load(HERE / "results.jsonl")[-1], HERE / "pagedattention.svg")
