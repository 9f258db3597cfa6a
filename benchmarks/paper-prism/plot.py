"""Draw paper-prism.svg from the last run in results.jsonl."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1]))

from harness.plot import Style, lines, panels, save, styles
from harness.results import Trial, load

HERE = Path(__file__).resolve().parent
RECORDED = HERE / "results.jsonl"
GOAL = 0.99
# What is drawn of the shares against the rate: one model at a time is far below.
CLOSE = (0.86, 1.005)
# Models that hold most, drawn one by one; the others are one band.
BANDS = 5

Points = Mapping[str, Sequence[tuple[float, float]]]


def points(trials: Sequence[Trial], x: str, figure: str, **only: float) -> Points:
    """By arm, `figure` against `x` in the trials with the values of `only`."""
    found: dict[str, list[tuple[float, float]]] = {}
    for trial in trials:
        if all(trial[key] == value for key, value in only.items()):
            found.setdefault(trial["arm"], []).append((trial[x], trial[figure]))
    return found


def scales(trials: Sequence[Trial], **only: float) -> Points:
    """By arm, attainment against how strict the objectives are."""
    return {
        trial["arm"]: [(float(scale), met) for scale, met in trial["attainment_at"].items()]
        for trial in trials
        if all(trial[key] == value for key, value in only.items())
    }


def attained(axis: Any, series: Points, look: Mapping[str, Style]) -> None:
    lines(axis, series, look)
    axis.axhline(GOAL, color="#9aa5b1", linewidth=0.6)
    axis.set_ylim(0, 1.04)


def memory(axis: Any, trial: Trial) -> float:
    """What each model on the first device holds, stacked; the most that all of them did."""
    series = trial["memory"]
    held = list(zip(*series["held"], strict=True))
    order = sorted(range(len(held)), key=lambda place: -sum(held[place]))
    first, rest = order[:BANDS], order[BANDS:]
    bands = [held[place] for place in first]
    bands.append(tuple(map(sum, zip(*(held[place] for place in rest), strict=True))))
    names = [f"model {series['models'][place]}" for place in first] + [f"{len(rest)} others"]
    greys = [f"{0.25 + 0.13 * index:.2f}" for index in range(BANDS)]
    axis.stackplot(
        series["t"],
        bands,
        labels=names,
        colors=["#0b6e4f", *greys[1:], "#e4e7eb"],
        edgecolor="white",
        linewidth=0.3,
    )
    axis.legend(frameon=False, fontsize=6, ncols=3, loc="upper right")
    axis.set_xlabel("seconds")
    return max(map(sum, series["held"]))


def main() -> None:
    file = Path(sys.argv[1]) if len(sys.argv) > 1 else RECORDED
    run = load(file)[-1]
    trials, (few, speed) = run["trials"], run["drawn"]
    look = styles(list(dict.fromkeys(trial["arm"] for trial in trials)))
    counts = list(dict.fromkeys(trial["devices"] for trial in trials))
    figure, axes = panels(2, 3, width=11.0)
    for axis, devices in zip(axes, counts, strict=False):
        attained(axis, points(trials, "speed", "attainment", devices=devices), look)
        axis.set(title=f"share within both objectives, {devices} devices", ylim=CLOSE)
    lines(axes[2], points(trials, "speed", "goodput", devices=few), look)
    axes[2].set(title=f"requests/s within both, {few} devices", ylim=(0, None))
    for axis in axes[:3]:
        axis.set_xlabel("times the recorded rate")
    attained(axes[3], scales(trials, devices=few, speed=speed), look)
    axes[3].set_xscale("log")
    axes[3].set_xticks([2, 5, 10, 20, 50, 100], ["2", "5", "10", "20", "50", "100"])
    axes[3].minorticks_off()
    axes[3].legend(frameon=False, fontsize=7, loc="center right")
    axes[3].set(title=f"by objectives, {few} devices, {speed:g} x the rate")
    axes[3].set_xlabel("times what a model takes alone")
    drawn = {trial["arm"]: trial for trial in trials if trial["memory"]}
    highest = 0.0
    for axis, arm in zip(axes[4:], ("elastic", "static"), strict=True):
        if arm in drawn:
            highest = max(highest, memory(axis, drawn[arm]))
        axis.set_title(f"GiB held on one of {few} devices, {arm}, {speed:g} x")
    for axis in axes[4:]:
        axis.set_ylim(0, 1.4 * highest)
    caption = (
        f"27 models on {run['device']}, objectives {run['scale']:g} x what a model takes alone"
    )
    save(figure, file.with_name("paper-prism.svg"), run, caption)


if __name__ == "__main__":
    main()
