"""Draw published-h100.svg: simulated against measured means of the last run."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1]))

from matplotlib.ticker import NullLocator

from harness.plot import panels, save, styles
from harness.results import Trial, load

HERE = Path(__file__).resolve().parent
TITLES = {"ttft_ms": "TTFT, ms", "tpot_ms": "TPOT, ms", "e2e_s": "E2E latency, s"}
TICKS = {"ttft_ms": (30, 100, 300), "tpot_ms": (10, 20, 40), "e2e_s": (1, 3, 10, 30)}
CALIBRATED = ("held out, Llama", "held out, Mistral", "calibrating")
SERIES = (*CALIBRATED, "by data sheet")


def series(trial: Trial) -> str:
    if trial["arm"] != "calibrated":
        return SERIES[-1]
    if trial["calibrates"]:
        return "calibrating"
    return f"held out, {trial['family'].capitalize()}"


def draw(axis: Any, trials: Sequence[Trial], metric: str) -> None:
    """A point for each cell, and the line on which both are the same."""
    look = styles(SERIES)
    for name in SERIES:
        chosen = [trial for trial in trials if series(trial) == name]
        axis.scatter(
            [trial["measured"][metric] for trial in chosen],
            [trial["simulated"][metric] for trial in chosen],
            label=name,
            marker=look[name].marker,
            edgecolor=look[name].colour,
            facecolor=look[name].colour if name in CALIBRATED else "none",
            s=18,
        )
    axis.set(xscale="log", yscale="log", title=TITLES[metric], xlabel="measured")
    for side in (axis.xaxis, axis.yaxis):
        side.set_ticks(TICKS[metric], labels=map(str, TICKS[metric]))
        side.set_minor_locator(NullLocator())
    ends = [trial[which][metric] for trial in trials for which in ("measured", "simulated")]
    ends = [min(ends) / 1.1, max(ends) * 1.1]
    axis.plot(ends, ends, color="#9aa5b1", linewidth=0.8, zorder=0)


def main() -> None:
    run = load(HERE / "results.jsonl")[-1]
    figure, axes = panels(1, len(TITLES), height=3.2)
    for axis, metric in zip(axes, TITLES, strict=True):
        draw(axis, run["trials"], metric)
    axes[0].set_ylabel("simulated")
    axes[0].legend(fontsize=7, frameon=False)
    save(figure, HERE / "published-h100.svg", run, "Means of vLLM 0.6.0 on H100, simulated")


if __name__ == "__main__":
    main()
