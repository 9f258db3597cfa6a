"""Measure eLLM beside other engines in alternating rounds; every scenario is a line of results."""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1]))

from limits import higher, limits
from peers import missing
from scenario import Prompt, Scenario
from scenarios import ARMS, SCENARIOS

from harness.options import parser
from harness.results import Trial, append, ratios
from harness.rounds import alternate

HERE = Path(__file__).resolve().parent


def arguments() -> argparse.Namespace:
    options = parser(__doc__ or "", HERE, ARMS, rounds=None)
    names = ", ".join(SCENARIOS)
    options.add_argument("scenarios", nargs="*", metavar="SCENARIO", help=f"of {names}; else all")
    asked = options.parse_args()
    if strange := set(asked.scenarios) - set(SCENARIOS):
        options.error(f"no scenario {', '.join(sorted(strange))}: there are {names}")
    asked.scenarios = asked.scenarios or list(SCENARIOS)
    return asked


def present(arms: Sequence[str]) -> list[str]:
    """Those that can run here; of the others it is said what they lack."""
    for arm in arms:
        if path := missing(arm):
            print(f"{arm} is left out: there is no {path}", file=sys.stderr)
    return [arm for arm in arms if not missing(arm)]


def measure(
    scenario: Scenario, arms: Sequence[str], rounds: int, threads: int, prompt: Prompt
) -> tuple[list[Trial], dict[str, Any]]:
    """Every trial, and a report on each engine; all stay loaded to the end."""
    trials: list[Trial] = []
    engines = []
    with ExitStack() as stack:
        for arm in arms:
            engine = scenario.open(arm, threads)
            stack.callback(engine.stop)
            print(f"{scenario.name}: {arm} loaded in {engine.load_seconds:.1f} s", file=sys.stderr)
            scenario.warm_up(engine, prompt)
            engine.other_cpus.clear()
            engines.append(engine)
        for number, engine in alternate(rounds, engines):
            if number and engine.name in scenario.once:
                continue
            figures = scenario.trial(engine, prompt)
            trials.append({"round": number, "arm": engine.name, **figures})
            said = ", ".join(f"{name} {value:.4g}" for name, value in figures.items())
            print(f"round {number + 1}, {engine.name}: {said}", file=sys.stderr)
        return trials, {engine.name: engine.report() for engine in engines}


def summary(scenario: Scenario, trials: Sequence[Trial], reports: dict[str, Any]) -> dict[str, Any]:
    """Medians over the rounds, and of the figures over the baseline's in the same round."""
    engines: dict[str, Any] = {}
    relative: dict[str, dict[str, float]] = {}
    for arm, report in reports.items():
        own = [trial for trial in trials if trial["arm"] == arm]
        figures = {name: median(trial[name] for trial in own) for name in scenario.figures}
        engines[arm] = {**figures, **report}
    for name in scenario.figures:
        for (arm,), ratio in ratios(trials, name, scenario.baseline).items():
            relative.setdefault(arm, {})[name] = ratio
    return {"figures": scenario.figures, "engines": engines, "ratios": relative}


def table(run: dict[str, Any]) -> str:
    """The run as a Markdown table."""
    titles = run["figures"]
    head = "| engine | " + " | ".join(titles.values()) + " | peak RSS |"
    rows = [head, "| --- |" + " --: |" * (len(titles) + 1)]
    for engine, figures in run["engines"].items():
        cells = []
        for name in titles:
            ratio = run["ratios"].get(engine, {}).get(name)
            cells.append(f"{figures[name]:.4g}" + (f" ({ratio:.2f}x)" if ratio else ""))
        rows.append(f"| {engine} | {' | '.join(cells)} | {figures['peak_rss'] / 2**30:.2f} GiB |")
    if limit := run["limits"]:
        rows.append(
            f"\nThe machine: {limit['read'] / 1e9:.1f} GB/s read, "
            f"{limit['arithmetic'] / 1e9:.0f} GFLOP/s in bf16 ({limit['unit']})"
        )
    for engine, shares in run["shares"].items():
        said = ", ".join(f"{name} {100 * share:.0f} %" for name, share in shares.items())
        rows.append(f"{engine} of that: {said}")
    return "\n".join(rows)


def main() -> None:
    asked = arguments()
    arms = present(asked.arms)
    for name in asked.scenarios:
        scenario = SCENARIOS[name].quick() if asked.quick else SCENARIOS[name]
        taking_part = [arm for arm in scenario.arms if arm in arms]
        if not taking_part:
            print(f"{name} is left out: none of its engines is here", file=sys.stderr)
            continue
        rounds = asked.rounds or scenario.rounds
        prompt = partial(scenario.model.prompt, rng=random.Random(asked.seed))
        before = limits(asked.threads)
        trials, reports = measure(scenario, taking_part, rounds, asked.threads, prompt)
        limit = higher(before, limits(asked.threads))
        report = summary(scenario, trials, reports)
        shares = {
            arm: scenario.shares(figures, limit) for arm, figures in report["engines"].items()
        }
        run = append(
            asked.output,
            seed=asked.seed,
            trials=trials,
            scenario=name,
            model=scenario.model.name,
            threads=asked.threads,
            rounds=rounds,
            limits=limit,
            shares={arm: share for arm, share in shares.items() if share},
            **report,
        )
        print(table(run))


if __name__ == "__main__":
    main()
