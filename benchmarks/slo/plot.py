"""Draw slo.svg from the last simulated run, and slo-real.svg from the last real one."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))

from arms import ARMS

from harness.plot import lines, panels, save, styles
from harness.results import Run, Trial, load

HERE = Path(__file__).resolve().parent
# The first style is for what a figure is about.
ORDER = tuple(reversed(ARMS))
FIGURES = {
    "goodput": "goodput, requests/s",
    "ttft_p99": "p99 TTFT, s",
    "tpot_p50": "median TPOT, s",
}
LOGARITHMIC = {"ttft_p99"}


def draw(run: Run, file: Path) -> None:
    """A row of panels for each setting: every figure against the request rate."""
    settings = list(dict.fromkeys(trial["setting"] for trial in run["trials"]))
    figure, axes = panels(len(settings), len(FIGURES))
    look = styles(ORDER)
    for number, axis in enumerate(axes):
        setting = settings[number // len(FIGURES)]
        name = list(FIGURES)[number % len(FIGURES)]
        trials = [trial for trial in run["trials"] if trial["setting"] == setting]
        lines(axis, {arm: points(trials, arm, name) for arm in ORDER if had(trials, arm)}, look)
        axis.set_title(f"{setting}: {FIGURES[name]}")
        axis.set_xlabel("requests/s")
        if name in LOGARITHMIC:
            axis.set_yscale("log")
        else:
            axis.set_ylim(bottom=0)
    axes[2].legend(fontsize=7, frameon=False, loc="lower right")
    save(figure, file, run, f"{run['how']} request-rate sweeps, seed {run['seed']}")


def points(trials: Sequence[Trial], arm: str, figure: str) -> list[tuple[float, float]]:
    return [(trial["rate"], trial[figure]) for trial in trials if trial["arm"] == arm]


def had(trials: Sequence[Trial], arm: str) -> bool:
    return any(trial["arm"] == arm for trial in trials)


def newest(runs: Sequence[Run]) -> Run:
    """The last run, with the trials of the last run of every setting."""
    trials: dict[str, list[Trial]] = {}
    for run in runs:
        for setting in dict.fromkeys(trial["setting"] for trial in run["trials"]):
            trials[setting] = [trial for trial in run["trials"] if trial["setting"] == setting]
    return {**runs[-1], "trials": [trial for each in trials.values() for trial in each]}


def main() -> None:
    runs = load(HERE / "results.jsonl")
    for how, name in (("simulated", "slo.svg"), ("real", "slo-real.svg")):
        found = [run for run in runs if run["how"] == how]
        if found:
            draw(newest(found), HERE / name)


if __name__ == "__main__":
    main()
