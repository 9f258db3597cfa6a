"""Simulate what vLLM 0.6.0 served on eight H100, and compare means with what was measured."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1]))

from cells import METRICS, Cell, cells, home, sent
from judged import NO_RANK, Ranking, error, groups
from simulated import by_data_sheet, calibrated, serve

from harness import options, results
from harness.results import Trial

HERE = Path(__file__).resolve().parent
DEVICES = {"calibrated": calibrated, "data-sheet": by_data_sheet}
# Half the rate takes as long again and tells a data sheet nothing else.
SHEET_LOADS = "_05"
QUICK = "llama-lmsys_05-"


def asked_for(arms: Sequence[str], quick: bool) -> list[tuple[str, Cell]]:
    """Arms and their cells."""
    return [
        (arm, cell)
        for arm in arms
        for cell in cells()
        if (arm == "calibrated" or cell.load.endswith(SHEET_LOADS))
        and (not quick or cell.name.startswith(QUICK))
    ]


def trial(root: Path, arm: str, cell: Cell) -> dict[str, Any]:
    """One cell by one arm."""
    items = sent(root, cell)
    began = time.process_time()
    figures, report = serve(cell, DEVICES[arm](cell), items)
    return {
        "round": 0,
        "arm": arm,
        "family": cell.family,
        "load": cell.load,
        "plan": cell.plan,
        "calibrates": cell.calibrates,
        "measured": dict(cell.measured),
        "simulated": {metric: round(value, 5) for metric, value in figures.items()},
        "requests": report.requests,
        "steps": report.steps,
        "preemptions": report.preemptions,
        "cpu_seconds": round(time.process_time() - began, 2),
    }


def tell(trials: Sequence[Trial]) -> None:
    """Every cell, then errors by group, then the order of plans."""
    for one in trials:
        name = f"{one['family']}-{one['load']}-{one['plan']}"
        figures = (
            f"{one['measured'][m]:9.2f} {one['simulated'][m]:9.2f} {error(one, m):+6.1%}"
            for m in METRICS
        )
        star = "*" if one["calibrates"] and one["arm"] == "calibrated" else " "
        print(f"{one['arm']:10} {star} {name:33}", *figures)
    for arm, family, group, errors in groups(trials):
        found = (f"{m} {errors.mean[m]:.1%} (largest {errors.largest[m]:.1%})" for m in METRICS)
        print(
            f"{arm} {family}, {group}, {errors.cells} cells:", *found, f"mean {errors.overall:.1%}"
        )
    for arm in dict.fromkeys(one["arm"] for one in trials):
        for metric in NO_RANK:
            order = Ranking.of([one for one in trials if one["arm"] == arm], metric)
            right = order.pairs - len(order.wrong)
            print(
                f"{arm}, {metric}: {right} of {order.pairs} pairs of plans in order", *order.wrong
            )


def main() -> None:
    asked = options.parser(__doc__ or "", HERE, tuple(DEVICES), rounds=1).parse_args()
    root, turns = home(), asked_for(asked.arms, asked.quick)
    with ProcessPoolExecutor(asked.threads) as processes:
        coming = [processes.submit(trial, root, arm, cell) for arm, cell in turns]
        trials = [one.result() for one in coming]
    tell(trials)
    results.append(asked.output, seed=asked.seed, trials=trials)


if __name__ == "__main__":
    main()
