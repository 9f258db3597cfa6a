"""Draw multi-model.svg from the last run in results.jsonl."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1]))

from harness.plot import Style, lines, panels, save, styles
from harness.results import Run, load, medians

HERE = Path(__file__).resolve().parent
RECORDED = HERE / "results.jsonl"
# Models of the trace with the most requests, drawn one by one; the others are one band.
BANDS = 6
# Arms whose models are drawn one by one.
COMPARED = ("elastic", "static", "static-paged")


def main() -> None:
    file = Path(sys.argv[1]) if len(sys.argv) > 1 else RECORDED
    run = load(file)[-1]
    arms = list(dict.fromkeys(trial["arm"] for trial in run["trials"]))
    arms.sort(key=lambda arm: (arm != "elastic", "static" not in arm, arm))
    look = styles(arms)
    figure, axes = panels(2, 3, width=11.0)
    rates(axes[0], run, "attainment", look)
    axes[0].set(title="share of requests within both objectives", ylim=(0, 1.02))
    axes[0].legend(frameon=False, fontsize=7)
    rates(axes[1], run, "goodput", look)
    axes[1].set(title="goodput, requests/s", ylim=(0, None))
    speed = scales(axes[2], run, look)
    axes[2].set(title=f"attainment by scale of the objectives, {speed:g}x", ylim=(0, 1.02))
    highest = max(max(t["memory"]["physical"]) for t in drawn(run, speed).values())
    for axis, arm in zip(axes[3:5], ("static", "elastic"), strict=True):
        memory(axis, drawn(run, speed)[arm])
        axis.set(title=f"MiB held by model, {arm}, {speed:g}x", ylim=(0, 1.4 * highest))
        axis.set_xlabel("seconds")
    by_model(axes[5], run, speed, look)
    axes[5].set(title=f"attainment of each model, busiest first, {speed:g}x", ylim=(0, 1.02))
    caption = (
        f"27 models, {run['share'] * 27 / 2**20:.0f} MiB, {run['threads']} thread; objectives "
        f"{run['scale'][0]:g} x TTFT and {run['scale'][1]:g} x TPOT alone"
    )
    save(figure, file.with_name("multi-model.svg"), run, caption)


def rates(axis: Any, run: Run, figure: str, look: Mapping[str, Style]) -> None:
    """A figure against the speed of the trace."""
    points: dict[str, list[tuple[float, float]]] = {}
    for (arm, speed), value in medians(run["trials"], figure, ["speed"]).items():
        points.setdefault(arm, []).append((speed, value))
    lines(axis, {arm: points[arm] for arm in look}, look)
    axis.set_xlabel("times the recorded rate")


def scales(axis: Any, run: Run, look: Mapping[str, Style]) -> float:
    """Attainment against how strict the objectives are, at the speed that is drawn."""
    speed = speed_drawn(run)
    points: dict[str, list[tuple[float, float]]] = {}
    for arm in look:
        own = [t for t in run["trials"] if t["arm"] == arm and t["speed"] == speed]
        for scale in own[0]["attainment_at"]:
            met = median(trial["attainment_at"][scale] for trial in own)
            points.setdefault(arm, []).append((float(scale), met))
    lines(axis, points, look)
    axis.set_xscale("log")
    axis.set_xticks([2, 5, 10, 20, 50], ["2", "5", "10", "20", "50"])
    axis.minorticks_off()
    axis.set_xlabel("times what a model takes alone")
    return speed


def speed_drawn(run: Run) -> float:
    """The second speed, where there are as many."""
    speeds = sorted({trial["speed"] for trial in run["trials"]})
    return float(speeds[min(1, len(speeds) - 1)])


def drawn(run: Run, speed: float) -> dict[str, dict[str, Any]]:
    """By arm, the trial whose memory is drawn."""
    return {t["arm"]: t for t in run["trials"] if t["memory"] and t["speed"] == speed}


def memory(axis: Any, trial: dict[str, Any]) -> None:
    """What each model holds, stacked: the busiest at the bottom, the rest as one band."""
    series = trial["memory"]
    first, rest = busiest(trial)[:BANDS], busiest(trial)[BANDS:]
    bands = [[held[model] for held in series["held"]] for model in first]
    bands.append([sum(held[model] for model in rest) for held in series["held"]])
    names = [f"model {model}" for model in first] + [f"{len(rest)} others"]
    greys = [f"{0.25 + 0.1 * index:.2f}" for index in range(BANDS)]
    axis.stackplot(
        series["t"],
        bands,
        labels=names,
        colors=["#0b6e4f", *greys[1:], "#e4e7eb"],
        edgecolor="white",
        linewidth=0.3,
    )
    axis.legend(frameon=False, fontsize=6, ncols=2, loc="upper right")


def busiest(trial: dict[str, Any]) -> list[int]:
    """Models by how many requests they have."""
    counts = {int(model): count for model, count in trial["requests_of"].items()}
    models = range(len(trial["memory"]["held"][0]))
    return sorted(models, key=lambda model: -counts.get(model, 0))


def by_model(axis: Any, run: Run, speed: float, look: Mapping[str, Style]) -> None:
    """Attainment of every model."""
    trials = {arm: trial for arm, trial in drawn(run, speed).items() if arm in COMPARED}
    for arm, trial in trials.items():
        order = [str(m) for m in busiest(trial) if str(m) in trial["attainment_of"]]
        axis.plot(
            range(len(order)),
            [trial["attainment_of"][model] for model in order],
            label=arm,
            color=look[arm].colour,
            marker=look[arm].marker,
            markersize=4,
            linestyle="none",
        )
    axis.set_xticks(range(len(order)), order, fontsize=6)
    axis.set_xlabel("model of the trace")


if __name__ == "__main__":
    main()
