"""Draw layouts.svg from the last run in results.jsonl, or in a file named as argument."""

from __future__ import annotations

import sys
from collections import defaultdict
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))

from harness.plot import lines, panels, save, styles
from harness.results import load, ratios

HERE = Path(__file__).resolve().parent
BASE = "torch.empty"
TARGET = 1.02


def main() -> None:
    file = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "results.jsonl"
    run = load(file)[-1]
    kinds: dict[str, dict[str, list[tuple[float, float]]]] = defaultdict(lambda: defaultdict(list))
    for (arm, what, length), ratio in ratios(
        run["trials"], "microseconds", BASE, ["what", "length"]
    ).items():
        if arm != BASE:
            kinds[what][arm].append((length, ratio))
    figure, axes = panels(1, len(kinds), width=10)
    for axis, (what, series) in zip(axes, kinds.items(), strict=True):
        axis.axhline(1, color="#323f4b", linewidth=0.8)
        axis.axhline(TARGET, color="#9aa5b1", linewidth=0.8, linestyle=":")
        lines(axis, series, styles(list(series)))
        lengths = sorted({length for points in series.values() for length, _ in points})
        axis.set_xscale("log", base=2)
        axis.set_xticks(lengths, [f"{length / 1024:g}K" for length in lengths])
        axis.set_xlabel("tokens attended to")
        axis.set_title(what)
    axes[0].set_ylabel(f"time / time over {BASE}")
    axes[0].legend(fontsize=7)
    caption = f"attention, bf16, {run['threads']} threads, medians of {run['rounds']} rounds"
    save(figure, HERE / "layouts.svg", run, caption)


if __name__ == "__main__":
    main()
