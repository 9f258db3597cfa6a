"""Draw gmlake.svg from the last run in results.jsonl."""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib as mpl
from matplotlib import pyplot as plt

HERE = Path(__file__).resolve().parent
COLOURS = {"caching": "#cbd2d9", "expandable": "#9aa5b1", "stitching": "#0b6e4f"}
LABELS = {
    "caching": "PyTorch's caching allocator (model)",
    "expandable": "with expandable segments (model)",
    "stitching": "eLLM, stitching",
}


def main() -> None:
    last = (HERE / "results.jsonl").read_text(encoding="utf-8").splitlines()[-1]
    run = json.loads(last)
    names = list(run["results"])
    mpl.rcParams.update({"svg.hashsalt": "ellm", "font.size": 9})
    figure, axis = plt.subplots(figsize=(9, 2.9), layout="constrained")
    for turn, (allocator, colour) in enumerate(COLOURS.items()):
        shares = [100 * run["results"][name][allocator]["fragmentation"] for name in names]
        places = [index + 0.28 * (turn - 1) for index in range(len(names))]
        bars = axis.bar(places, shares, 0.26, color=colour, label=LABELS[allocator])
        axis.bar_label(bars, [f"{share:.0f}" for share in shares], fontsize=6, padding=1)
    axis.set_xticks(range(len(names)), [name.replace(" ", "\n") for name in names], fontsize=8)
    axis.set_ylabel("fragmentation, %")
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(bottom=False)
    axis.legend(frameon=False, fontsize=8)
    figure.suptitle(
        "1 - peak active / peak reserved over a few training steps; N plain, R recomputation, "
        f"L LoRA, O offload ({run['commit']})",
        fontsize=8,
    )
    figure.savefig(HERE / "gmlake.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
