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


def attained(axis: Any, series: Points, look: Mapping[str, Style], title: str) -> None:
    lines(axis, series, look)
    axis.axhline(GOAL, color="#9aa5b1", linewidth=0.6)
    axis.set(title=title, ylim=(0, 1.04))


def ticks(axis: Any, values: Sequence[float]) -> None:
    axis.set_xscale("log")
    axis.set_xticks(list(values), [f"{value:g}" for value in values])
    axis.minorticks_off()


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
    trials, count, speed = run["trials"], run["count"], run["speed"]
    look = styles(list(dict.fromkeys(trial["arm"] for trial in trials)))
    speeds = sorted({trial["speed"] for trial in trials})
    figure, axes = panels(2, 3, width=11.0)
    for axis, name in zip(axes, ("attainment", "goodput"), strict=False):
        lines(axis, points(trials, "speed", name, devices=count), look)
        ticks(axis, speeds)
        axis.set_xlabel("times the recorded rate")
    axes[0].axhline(GOAL, color="#9aa5b1", linewidth=0.6)
    axes[0].set(title=f"within both objectives, {count} devices", ylim=(0, 1.04))
    axes[0].legend(frameon=False, fontsize=7, loc="lower left")
    axes[1].set(title=f"requests/s within both, {count} devices", ylim=(0, None))
    series = points(trials, "devices", "attainment", speed=speed)
    attained(axes[2], series, look, f"within both objectives, {speed:g} x the rate")
    axes[2].set_xlabel("devices")
    series = scales(trials, devices=count, speed=speed)
    attained(axes[3], series, look, f"by objectives, {count} devices, {speed:g} x the rate")
    ticks(axes[3], [2, 5, 10, 20, 50, 100])
    axes[3].set_xlabel("times what a model takes alone")
    drawn = {trial["arm"]: trial for trial in trials if trial["memory"]}
    highest = 0.0
    for axis, arm in zip(axes[4:], ("elastic", "static"), strict=True):
        if arm in drawn:
            highest = max(highest, memory(axis, drawn[arm]))
            title = f"GiB held on one of {drawn[arm]['devices']}, {arm}, {drawn[arm]['speed']:g} x"
            axis.set_title(title)
    for axis in axes[4:]:
        axis.set_ylim(0, 1.35 * highest)
    caption = (
        f"27 models on {run['device']}, objectives {run['scale']:g} x what a model takes alone"
    )
    save(figure, file.with_name("paper-prism.svg"), run, caption)


if __name__ == "__main__":
    main()
