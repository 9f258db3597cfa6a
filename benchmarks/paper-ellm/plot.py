"""Draw paper-ellm.svg from the last run: batches by length, then every workload by rate."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1]))

from arms import MEMORIES, OURS
from compared import newest
from matplotlib.ticker import NullLocator

from harness.plot import Style, lines, panels, save, styles
from harness.results import Run, Trial, load

HERE = Path(__file__).resolve().parent
# The first style is for what a figure is about.
BATCH_ARMS = tuple(reversed(MEMORIES))
RATE_ARMS = (OURS, "static", "static+chunked", "elastic+tier", "static+chunked+slo", "elastic+slo")
BATCHES = {
    "sequences": "sequences at once",
    "decode_rate": "decode tokens/s, full batch, ÷ static's",
    "offline_rate": "output tokens/s, all at once, ÷ static's",
}
RATIOS = {"decode_rate", "offline_rate"}
FELT = {
    "met": "requests within both objectives",
    "ttft_mean": "mean TTFT, s",
    "tpot_p50": "median TPOT, ms",
}
LOGARITHMIC = {"ttft_mean"}
UNITS = {"tpot_p50": 1e3}
COLUMNS = 3


def batches(axes: Sequence[Any], trials: Sequence[Trial]) -> None:
    """What fits and how fast it is, against the input length."""
    look = styles(BATCH_ARMS)
    for axis, (figure, title) in zip(axes, BATCHES.items(), strict=True):
        shown = against_static(trials, figure) if figure in RATIOS else trials
        draw(axis, shown, BATCH_ARMS, "input", figure, look)
        axis.set(xscale="log", title=title, xlabel="input tokens")
        if figure not in RATIOS:
            axis.set_yscale("log")
        inputs = sorted({trial["input"] for trial in trials})
        axis.set_xticks(inputs, [f"{each // 1024}K" for each in inputs])
        axis.xaxis.set_minor_locator(NullLocator())
    axes[0].legend(fontsize=7, frameon=False)


def against_static(trials: Sequence[Trial], figure: str) -> list[Trial]:
    base = {trial["input"]: trial[figure] for trial in trials if trial["arm"] == "static"}
    return [{**trial, figure: trial[figure] / base[trial["input"]]} for trial in trials]


def rates(axes: Sequence[Any], workload: str, trials: Sequence[Trial]) -> None:
    """What users felt, against the arrival rate."""
    look = styles(RATE_ARMS)
    for axis, (figure, title) in zip(axes, FELT.items(), strict=True):
        draw(axis, trials, RATE_ARMS, "rate", figure, look)
        axis.set(title=f"{workload}: {title}", xlabel="requests/s")
        if figure in LOGARITHMIC:
            axis.set_yscale("log")
        else:
            axis.set_ylim(bottom=0)


def draw(
    axis: Any,
    trials: Sequence[Trial],
    arms: Sequence[str],
    by: str,
    figure: str,
    look: Mapping[str, Style],
) -> None:
    unit = UNITS.get(figure, 1.0)
    points = {
        arm: [(t[by], unit * t[figure]) for t in trials if t["arm"] == arm]
        for arm in reversed(arms)
    }
    lines(axis, {arm: each for arm, each in points.items() if each}, look)


def figure(run: Run) -> Any:
    workloads = list(dict.fromkeys(trial["workload"] for trial in run["rates"]))
    drawn, axes = panels(1 + len(workloads), COLUMNS)
    batches(axes[:COLUMNS], run["batches"])
    for row, name in enumerate(workloads, 1):
        trials = [trial for trial in run["rates"] if trial["workload"] == name]
        rates(axes[COLUMNS * row : COLUMNS * (row + 1)], name, trials)
    axes[2 * COLUMNS - 1].legend(fontsize=7, frameon=False, loc="lower right")
    return drawn


def main() -> None:
    run = newest(load(HERE / "results.jsonl"))
    caption = f"Llama-3-8B-262K on an A100, simulated, seed {run['seed']}"
    save(figure(run), HERE / "paper-ellm.svg", run, caption)


if __name__ == "__main__":
    main()
