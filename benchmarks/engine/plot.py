"""Draw engine.svg from the last run in results.jsonl."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))

from run import FIGURES

from harness.plot import bars, panels, save, styles
from harness.results import load

HERE = Path(__file__).resolve().parent


def main() -> None:
    run = load(HERE / "results.jsonl")[-1]
    figure, axes = panels(1, len(FIGURES), height=2.4)
    look = styles(list(run["engines"]))
    for axis, (key, title) in zip(axes, FIGURES.items(), strict=True):
        bars(axis, {name: engine[key] for name, engine in run["engines"].items()}, look)
        axis.set_title(title)
        if axis is not axes[0]:
            axis.set_yticklabels([])
    caption = (
        f"168 M-parameter Llama, bf16, {run['threads']} threads, "
        f"medians of {run['rounds']} alternating rounds"
    )
    save(figure, HERE / "engine.svg", run, caption)


if __name__ == "__main__":
    main()
