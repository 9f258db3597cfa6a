"""Draw throughput.svg from the last run of each arm over all lengths of a shape."""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1]))

from harness.plot import Style, lines, panels, save, styles
from harness.results import Run, Trial, load, medians

HERE = Path(__file__).resolve().parent
ORDER = ("elastic", "static", "static-chunked", "elastic-tier", "vLLM")
OWNERS = ("weights", "activations", "kv", "free")
LOOK = dict(
    zip(
        OWNERS,
        (
            Style("#323f4b", "-", "", "//"),
            Style("#b08900", "-", "", "xx"),
            Style("#0b6e4f", "-", "", ""),
            Style("#e4e7eb", "-", "", ".."),
        ),
        strict=True,
    )
)


def curves(axis: Any, trials: Sequence[Trial], figure: str) -> None:
    """A figure against the input length, a line for each arm."""
    series: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for (arm, length), value in medians(trials, figure, ("input",)).items():
        series[arm].append((length, value))
    lines(axis, series, styles(list(series)))
    lengths = sorted({length for points in series.values() for length, _ in points})
    axis.set_xscale("log", base=2)
    axis.set_xticks(lengths, [f"{length / 1024:.3g}K" for length in lengths])
    axis.set_xlabel("tokens of input")
    axis.set_ylim(bottom=0)


def memory(axis: Any, trials: Sequence[Trial], length: int) -> None:
    """Who held the budget, arm by arm, in the first round."""
    trials = [
        trial
        for trial in trials
        if (trial["input"], trial["round"]) == (length, 0) and "memory" in trial
    ]
    names = [trial["arm"] for trial in trials]
    left = [0.0] * len(trials)
    for owner in OWNERS:
        widths = [trial["memory"][owner] / 2**30 for trial in trials]
        look = LOOK[owner]
        axis.barh(
            names,
            widths,
            left=left,
            label=owner,
            facecolor=look.colour,
            hatch=look.hatch,
            edgecolor="white",
        )
        left = [start + width for start, width in zip(left, widths, strict=True)]
    axis.invert_yaxis()
    axis.set_xlabel(f"GiB at {length / 1024:.3g}K of input")


def latest(runs: Sequence[Run]) -> dict[str, list[Trial]]:
    """For each shape the trials of every arm in the last run that has several lengths of it."""
    found: dict[str, dict[str, list[Trial]]] = defaultdict(dict)
    for run in runs:
        for key in {(trial["shape"], trial["arm"]) for trial in run["trials"]}:
            mine = [trial for trial in run["trials"] if (trial["shape"], trial["arm"]) == key]
            if len({trial["input"] for trial in mine}) > 1:
                found[key[0]][key[1]] = mine
    return {
        shape: [trial for arm in ORDER if arm in arms for trial in arms[arm]]
        for shape, arms in found.items()
    }


def main() -> None:
    file = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "results.jsonl"
    runs = load(file)
    shapes = latest(runs)
    budgets = {name: size for run in runs for name, size in run["budgets"].items()}
    figure, axes = panels(len(shapes), 3, width=12)
    for row, (shape, trials) in enumerate(shapes.items()):
        batch, speed, owners = axes[3 * row : 3 * row + 3]
        lengths = sorted({trial["input"] for trial in trials})
        curves(batch, trials, "batch")
        batch.set_title(f"{shape}, {budgets[shape] / 2**30:.3g} GiB: sequences at once")
        batch.set_yscale("log", base=2)
        batch.yaxis.set_major_formatter("{x:g}")
        batch.set_ylim(bottom=0.8)
        curves(speed, trials, "tokens_per_second")
        speed.set_title("decoded tokens/s")
        memory(owners, trials, lengths[-2:][0])
    axes[0].legend(fontsize=7)
    axes[2].legend(fontsize=7, ncols=4, loc="lower center", bbox_to_anchor=(0.5, 1))
    caption = f"random weights, bf16, {runs[-1]['threads']} threads, medians of an arm's last run"
    save(figure, HERE / "throughput.svg", runs[-1], caption)


if __name__ == "__main__":
    main()
