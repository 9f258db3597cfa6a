"""Draw throughput.svg from the last run over all lengths of each shape in results.jsonl."""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1]))

from harness.plot import Style, lines, panels, save, styles
from harness.results import Run, load, medians

HERE = Path(__file__).resolve().parent
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


def curves(axis: Any, run: Run, shape: str, figure: str) -> None:
    """A figure against the input length, a line for each arm."""
    series: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for (arm, name, length), value in medians(run["trials"], figure, ("shape", "input")).items():
        if name == shape:
            series[arm].append((length, value))
    lines(axis, series, styles(list(series)))
    lengths = sorted({length for points in series.values() for length, _ in points})
    axis.set_xscale("log", base=2)
    axis.set_xticks(lengths, [f"{length / 1024:.3g}K" for length in lengths])
    axis.set_xlabel("tokens of input")
    axis.set_ylim(bottom=0)


def memory(axis: Any, run: Run, shape: str, length: int) -> None:
    """Who held the budget, arm by arm, in the first round."""
    trials = [
        trial
        for trial in run["trials"]
        if (trial["shape"], trial["input"], trial["round"]) == (shape, length, 0)
        and "memory" in trial
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


def latest(runs: Sequence[Run]) -> dict[str, Run]:
    """For each shape the last run that has more than one length of it."""
    found: dict[str, Run] = {}
    for run in runs:
        for shape in run["budgets"]:
            if len({t["input"] for t in run["trials"] if t["shape"] == shape}) > 1:
                found[shape] = run
    return found


def main() -> None:
    file = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "results.jsonl"
    runs = latest(load(file))
    figure, axes = panels(len(runs), 3, width=12)
    for row, (shape, run) in enumerate(runs.items()):
        batch, speed, owners = axes[3 * row : 3 * row + 3]
        lengths = sorted({trial["input"] for trial in run["trials"] if trial["shape"] == shape})
        curves(batch, run, shape, "batch")
        batch.set_title(f"{shape}, {run['budgets'][shape] / 2**30:.3g} GiB: sequences at once")
        batch.set_yscale("log", base=2)
        batch.yaxis.set_major_formatter("{x:g}")
        batch.set_ylim(bottom=0.8)
        curves(speed, run, shape, "tokens_per_second")
        speed.set_title("decoded tokens/s")
        memory(owners, run, shape, lengths[-2:][0])
    axes[0].legend(fontsize=7)
    axes[2].legend(fontsize=7, ncols=4, loc="lower center", bbox_to_anchor=(0.5, 1))
    caption = f"random weights, bf16, {run['threads']} threads, medians of {run['rounds']} rounds"
    save(figure, HERE / "throughput.svg", run, caption)


if __name__ == "__main__":
    main()
