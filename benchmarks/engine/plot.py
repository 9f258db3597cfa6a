"""Draw SCENARIO.svg from the last run of each scenario in results.jsonl."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))

from scenario import Scenario
from scenarios import ARMS, SCENARIOS

from harness.plot import bars, panels, save, styles
from harness.results import Run, load

HERE = Path(__file__).resolve().parent
COLUMNS = 3


def draw(scenario: Scenario, run: Run) -> None:
    """A panel for each figure, a bar for each engine."""
    titles, engines = run.get("figures", scenario.figures), run["engines"]
    figure, axes = panels(-(-len(titles) // COLUMNS), COLUMNS, height=2.4)
    look = styles(ARMS)
    for number, (axis, (key, title)) in enumerate(zip(axes, titles.items(), strict=True)):
        bars(axis, {name: engine[key] for name, engine in engines.items()}, look)
        axis.set_title(title)
        if number % COLUMNS:
            axis.set_yticklabels([])
    caption = (
        f"{scenario.model.name}, bf16, {run['threads']} threads, "
        f"medians of {run['rounds']} alternating rounds"
    )
    save(figure, HERE / f"{scenario.name}.svg", run, caption)


def main() -> None:
    # The oldest runs are from before there were several scenarios.
    last = {run.get("scenario", "throughput"): run for run in load(HERE / "results.jsonl")}
    for name, run in last.items():
        draw(SCENARIOS[name], run)


if __name__ == "__main__":
    main()
