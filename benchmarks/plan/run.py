"""Look for the best plan in the whole space: how long it takes, and what it is worth."""

from __future__ import annotations

import argparse
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1]))

from settings import SETTINGS, Setting

from ellm.planner.case import Case
from ellm.planner.find import find_plan
from ellm.planner.search import Found, Trial
from ellm.planner.verdict import reason
from ellm.planner.workers import Workers
from harness.machine import cpu_seconds
from harness.options import parser
from harness.results import Trial as Line
from harness.results import append

HERE = Path(__file__).resolve().parent
# Halving is what `ellm plan` does; thorough simulates whatever bounds do not exclude.
ARMS = ("halving", "thorough")
QUICK_REQUESTS = 24


def arguments() -> argparse.Namespace:
    options = parser(str(__doc__), HERE, ARMS, rounds=1)
    options.add_argument("--settings", default=",".join(SETTINGS), help="comma-separated")
    asked = options.parse_args()
    asked.settings = asked.settings.split(",")
    if asked.quick:
        asked.settings = asked.settings[:1]
    return asked


def make(name: str, seed: int, requests: int) -> Case:
    """The case of a setting, in whatever process."""
    return SETTINGS[name].case(seed, requests)


def search(name: str, arm: str, asked: argparse.Namespace) -> Line:
    setting = SETTINGS[name]
    requests = QUICK_REQUESTS if asked.quick else setting.requests
    case = make(name, asked.seed, requests)
    began, cpu = time.perf_counter(), cpu_seconds()
    with Workers(partial(make, name, asked.seed, requests), asked.threads) as workers:
        found = find_plan(case, setting.wish, workers, setting.devices, thorough=arm == "thorough")
        # While the processes are there to be counted.
        wall, spent = time.perf_counter() - began, cpu_seconds() - cpu
    counts = found.counts
    line = {
        "round": 0,
        "arm": arm,
        "setting": name,
        "model": setting.model,
        "devices": f"{setting.devices} {setting.device}",
        "objective": setting.objective.value,
        "plans": counts.unfit
        + counts.alike
        + counts.bounded
        + counts.estimated
        + counts.halved
        + counts.simulated,
        "unfit": counts.unfit,
        "alike": counts.alike,
        "bounded": counts.bounded,
        "estimated": counts.estimated,
        "halved": counts.halved,
        "simulated": counts.simulated,
        "short": counts.short,
        "seconds": round(wall, 1),
        "cpu_seconds": round(spent, 1),
        "processes": asked.threads,
        **compared(found, case, setting),
    }
    print(
        f"{name} {arm}: {line['best']['plan']}, {line['factor']:.2f}x the heuristic "
        f"{line['heuristic']['plan']}; {wall:.0f} s, {spent:.0f} CPU s",
        file=sys.stderr,
    )
    return line


def compared(found: Found, case: Case, setting: Setting) -> dict[str, Any]:
    """The best plan, the one after it and the heuristic one."""
    wish, best, second, usual = setting.wish, found.best, found.second, found.usual
    assert second is not None
    assert usual is not None
    theirs = wish.value(usual.figures)
    return {
        "best": described(best, case),
        "runner_up": described(second, case),
        "heuristic": described(usual, case),
        "factor": wish.value(best.figures) / theirs if theirs else None,
        "energy": best.figures.joules / usual.figures.joules,
        "reason": reason(case, wish, best, second),
        "against_heuristic": reason(case, wish, best, usual) if best is not usual else "",
        "points": [
            {**described(trial, case), "front": any(trial is one for one in found.front)}
            for trial in found.trials
        ],
    }


def described(trial: Trial, case: Case) -> dict[str, Any]:
    return {"plan": trial.plan.describe(case.transformer), **trial.figures.as_json()}


def main() -> None:
    asked = arguments()
    lines = [search(name, arm, asked) for name in asked.settings for arm in asked.arms]
    append(asked.output, seed=asked.seed, trials=lines)


if __name__ == "__main__":
    main()
