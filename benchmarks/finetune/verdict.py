"""What the steps of a trial come to, and whether the arms may be compared."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean, median
from typing import Any

from harness.results import Trial, medians, ratios

# What the first steps take says how fast memory is mapped and kernels are loaded, once.
WARM_UP = 3
POINT = ("workload",)
# How far losses may be apart: kernels of attention's backward pass add up in no fixed order, so
# that what follows an update differs between two runs of one arm too.
TOLERANCES = {"first_loss": 0.001, "loss": 0.05}


def figures(answer: dict[str, Any]) -> dict[str, Any]:
    """A worker's answer, with its steps summed up."""
    lessons = answer["lessons"]
    warm = lessons[WARM_UP:]
    seconds = [each["seconds"] for each in warm]
    found = {key: value for key, value in answer.items() if key != "lessons"} | {
        "ms": round(1e3 * median(seconds), 3),
        "tokens_per_second": round(sum(each["tokens"] for each in warm) / sum(seconds)),
        "first_loss": lessons[0]["loss"],
        "loss": mean(each["loss"] for each in lessons[-WARM_UP:]),
    }
    if "peak_reserved" in found:
        found["fragmentation"] = 1 - found["peak_active"] / found["peak_reserved"]
    return found


def objection(trials: Sequence[Trial]) -> str | None:
    """Why the trials prove nothing; None if they may be compared.

    Every arm has to learn, and the same: else its memory was not what its tensors hold.
    """
    for workload in sorted({trial["workload"] for trial in trials}):
        same = [trial for trial in trials if trial["workload"] == workload]
        for figure, tolerance in TOLERANCES.items():
            losses = [trial[figure] for trial in same]
            # Said so that what is no number is no match either.
            if not all(abs(each / losses[0] - 1) <= tolerance for each in losses):
                return f"{workload}: {figure} differs between arms: {losses}"
        if not same[0]["loss"] < same[0]["first_loss"]:
            return f"{workload}: nothing was learned, {same[0]['loss']} at the end"
    for trial in trials:
        if "expandable" in trial and trial["expandable"] != (trial["arm"] == "expandable"):
            return f"{trial['arm']}: PyTorch has not heard how it should take memory"
    return None


def table(trials: Sequence[Trial]) -> str:
    """Medians over the rounds, as Markdown; speed as a ratio to the default's in the same round."""
    shown = {
        "active MiB": (medians(trials, "peak_active", POINT), _mib),
        "reserved MiB": (medians(trials, "peak_reserved", POINT), _mib),
        "fragmentation": (medians(trials, "fragmentation", POINT), "{:.1%}".format),
        "ms a step": (medians(trials, "ms", POINT), "{:.1f}".format),
        "speed": (ratios(trials, "tokens_per_second", "default", POINT), "{:.3f}".format),
    }
    rows = ["| workload | arm | " + " | ".join(shown) + " |"]
    rows.append("| --- | --- |" + " --: |" * len(shown))
    for arm, workload in medians(trials, "ms", POINT):
        cells = [
            write(values[arm, workload]) if (arm, workload) in values else ""
            for values, write in shown.values()
        ]
        rows.append(f"| {workload} | {arm} | {' | '.join(cells)} |")
    return "\n".join(rows)


def _mib(count: float) -> str:
    return f"{count / 2**20:.0f}"
