"""Draw paper-mooncake.svg from the last run in results.jsonl."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1]))

from harness.plot import STYLES, bars, lines, panels, save, styles
from harness.results import Run, Trial, load

HERE = Path(__file__).resolve().parent
RECORDED = HERE / "results.jsonl"
# Mean TTFT that Mooncake gives for these ways to choose a node (FAST'25, figure 5), in seconds.
PUBLISHED = {"random": 19.65, "load balancing": 5.27, "local cache aware": 3.58}

FIGURES: Mapping[str, Callable[[Trial], float]] = {
    "share of prompt tokens found": lambda trial: trial["found"],
    "median TTFT, s": lambda trial: trial["ttft_p50"],
    "p99 TTFT, s": lambda trial: trial["ttft_p99"],
    "output tokens/s": lambda trial: trial["output_rate"],
    "TTFT within 30 s, TPOT within 100 ms": lambda trial: trial["effective"]["100"]["mean"],
}
# Ticks of the logarithmic ones.
TICKS = {"median TTFT, s": (1, 3, 10, 30, 100), "p99 TTFT, s": (30, 50, 100, 200)}


def over_rates(axis: Any, trials: Sequence[Trial], title: str) -> None:
    arms = list(dict.fromkeys(trial["arm"] for trial in trials))
    read = FIGURES[title]
    series = {
        arm: [(trial["rate"], read(trial)) for trial in trials if trial["arm"] == arm]
        for arm in arms
    }
    lines(axis, series, styles(arms))
    axis.set(title=title, xlabel="requests/s, one node")
    if title in TICKS:
        axis.set_yscale("log")
        axis.set_yticks(TICKS[title], [str(tick) for tick in TICKS[title]])
        axis.minorticks_off()
    else:
        axis.set_ylim(bottom=0)


def over_nodes(axis: Any, run: Run) -> None:
    """Mean TTFT of each way to choose a node: ours, and those that were published."""
    trials = [trial for trial in run["trials"] if trial["part"] == "nodes"]
    ours = {trial["dispatch"]: trial["ttft_mean"] for trial in trials}
    theirs = {f"{name} *": seconds for name, seconds in PUBLISHED.items()}
    values = {**ours, **theirs}
    look = dict.fromkeys(ours, STYLES[0]) | dict.fromkeys(theirs, STYLES[2])
    bars(axis, values, look)
    axis.set_title(f"mean TTFT on {trials[0]['nodes']} nodes, s (* Mooncake's)")


def main() -> None:
    file = Path(sys.argv[1]) if len(sys.argv) > 1 else RECORDED
    run = load(file)[-1]
    figure, axes = panels(2, 3, width=11.0)
    trials = [trial for trial in run["trials"] if trial["part"] == "rates"]
    for axis, title in zip(axes, FIGURES, strict=False):
        over_rates(axis, trials, title)
    axes[3].legend(frameon=False, fontsize=7, loc="lower right")
    over_nodes(axes[5], run)
    caption = f"Mooncake's conversations, {run['model']} on nodes of {run['width']} {run['device']}"
    save(figure, file.with_name("paper-mooncake.svg"), run, caption)


if __name__ == "__main__":
    main()
