"""Draw engine.svg from the last run in results.jsonl."""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib as mpl
from matplotlib import pyplot as plt
from run import FIGURES

HERE = Path(__file__).resolve().parent
COLOURS = {"ellm": "#0b6e4f", "transformers": "#9aa5b1", "transformers-cb": "#cbd2d9"}


def main() -> None:
    last = (HERE / "results.jsonl").read_text(encoding="utf-8").splitlines()[-1]
    run = json.loads(last)
    names = list(run["engines"])
    mpl.rcParams.update({"svg.hashsalt": "ellm", "font.size": 9})
    figure, axes = plt.subplots(1, len(FIGURES), figsize=(9, 2.4), layout="constrained")
    for axis, (key, title) in zip(axes, FIGURES.items(), strict=True):
        values = [run["engines"][name][key] for name in names]
        colours = [COLOURS.get(name, "#9aa5b1") for name in names]
        bars = axis.barh(names, values, color=colours)
        axis.bar_label(
            bars, [f" {value:.0f}" if value >= 100 else f" {value:.3g}" for value in values]
        )
        axis.set_title(title, fontsize=9)
        axis.set_xlim(0, 1.2 * max(values))
        axis.invert_yaxis()
        axis.spines[["top", "right", "bottom"]].set_visible(False)
        axis.tick_params(bottom=False, labelbottom=False, left=False)
        if axis is not axes[0]:
            axis.set_yticklabels([])
    machine = run["machine"]
    figure.suptitle(
        f"168 M-parameter Llama, bf16, {run['threads']} threads on {machine['cpu']}; "
        f"medians of {run['rounds']} alternating rounds ({run['commit']})",
        fontsize=8,
    )
    figure.savefig(HERE / "engine.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
