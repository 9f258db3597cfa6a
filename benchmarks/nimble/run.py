"""Networks with branches: eager, compiled by Inductor, replayed in one lane and in several."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1]))

import torch
from networks import NETWORKS

from ellm import aot
from harness.options import parser
from harness.results import Run, Trial, append, medians, ratios
from harness.rounds import alternate

HERE = Path(__file__).resolve().parent
ARMS = ("eager", "inductor", "one lane", "lanes", "chosen")
CALLS = 30


def ways(
    name: str, threads: int, arms: tuple[str, ...]
) -> tuple[dict[str, Callable[[], Any]], aot.Report]:
    """What each arm calls, and what was planned."""
    module, x = NETWORKS[name]()
    module.eval()
    several = aot.compile(module, (x,), lanes=threads)
    made: dict[str, Callable[[], Any]] = {}
    if "eager" in arms:
        made["eager"] = lambda: module(x)
    if "inductor" in arms:
        fast = torch.compile(module)
        made["inductor"] = lambda: fast(x)
    if "one lane" in arms:
        one = aot.compile(module, (x,), lanes=1)
        made["one lane"] = lambda: one(x)
    if "lanes" in arms:
        made["lanes"] = lambda: several(x)
    chosen = aot.compile(module, (x,))
    if "chosen" in arms:
        made["chosen"] = lambda: chosen(x)
    return made, chosen.report


def microseconds(call: Callable[[], Any], calls: int) -> float:
    start = perf_counter()
    for _ in range(calls):
        call()
    return 1e6 * (perf_counter() - start) / calls


@torch.inference_mode()
def measure(arms: tuple[str, ...], rounds: int, threads: int, calls: int) -> list[Trial]:
    trials: list[Trial] = []
    for name in NETWORKS:
        made, report = ways(name, threads, arms)
        planned = {
            "operations": report.operations,
            "streams": report.streams,
            "synchronisations": report.synchronisations,
            "concurrency": report.concurrency,
            "lanes_chosen": report.lanes,
        }
        for call in made.values():
            microseconds(call, 3)
        for number, arm in alternate(rounds, list(made)):
            trial = {"round": number, "arm": arm, "network": name, **planned}
            trials.append({**trial, "us": microseconds(made[arm], calls)})
    return trials


def table(run: Run) -> str:
    """Medians in microseconds with ratios to one lane, and what was planned."""
    times = medians(run["trials"], "us", ["network"])
    against = ratios(run["trials"], "us", "one lane", ["network"])
    rows = ["| network | arm | µs a call (one lane = 1) |", "| --- | --- | --: |"]
    for (arm, network), value in times.items():
        rows.append(f"| {network} | {arm} | {value:.0f} ({against[arm, network]:.2f}) |")
    seen = {trial["network"]: trial for trial in run["trials"]}
    for network, trial in seen.items():
        rows.append(
            f"\n{network}: {trial['operations']} operations, "
            f"{trial['concurrency']} at once at most, {trial['streams']} streams, "
            f"{trial['synchronisations']} waits, {trial['lanes_chosen']} lane(s) chosen"
        )
    return "\n".join(rows)


def main() -> None:
    asked = parser(__doc__ or "", HERE, ARMS, rounds=7).parse_args()
    torch.set_num_threads(asked.threads)
    torch.manual_seed(asked.seed)
    trials = measure(asked.arms, asked.rounds, asked.threads, 3 if asked.quick else CALLS)
    run = append(asked.output, seed=asked.seed, threads=asked.threads, trials=trials)
    print(table(run))


if __name__ == "__main__":
    main()
