"""Prompts of growing length, and conversations at growing rates, for every arm; in virtual time."""

from __future__ import annotations

import argparse
import sys
from multiprocessing import Pool
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))

from arms import ARMS
from compared import table
from settings import OUTPUT, SETTINGS, WISHED, conversations, prompts

from ellm.sim.scenario import Scenario, simulate
from harness.options import parser
from harness.results import Trial, append

HERE = Path(__file__).resolve().parent
# Prompts of one length, and seconds for which conversations come.
PROMPTS, QUICK_PROMPTS = 80, 16
SECONDS, QUICK_SECONDS = 120.0, 10.0
# What prompts of one length may have, so much do fixed shares allow for.
LONGEST = 16384
# What conversations may take: twice the limit of each side.
CONVERSATION = 2048
# Processes that simulate at once.
AT_ONCE = 2
Job = tuple[str, str, float, str, argparse.Namespace]


def arguments() -> argparse.Namespace:
    options = parser(str(__doc__), HERE, list(ARMS), rounds=1)
    options.add_argument("--settings", default=",".join(SETTINGS), help="comma-separated")
    asked = options.parse_args()
    asked.settings = asked.settings.split(",")
    return asked


def jobs(asked: argparse.Namespace) -> list[Job]:
    """Setting, what grows, its value and arm of each trial."""
    found: list[Job] = []
    for name in asked.settings:
        setting = SETTINGS[name]
        for sweep, values in (("rate", setting.rates), ("context", setting.contexts)):
            some = values[1:2] if asked.quick else values
            found += [(name, sweep, value, arm, asked) for value in some for arm in asked.arms]
    return found


def simulated(job: Job) -> Trial:
    name, sweep, value, arm, asked = job
    setting = SETTINGS[name]
    if sweep == "context":
        count = QUICK_PROMPTS if asked.quick else PROMPTS
        items = prompts(count, int(value), setting.rate, asked.seed)
        longest = LONGEST + OUTPUT
    else:
        items = conversations(QUICK_SECONDS if asked.quick else SECONDS, value, asked.seed)
        longest = CONVERSATION
    deployment = ARMS[arm].deployment(setting, longest, WISHED)
    report = simulate(Scenario(deployment=deployment, items=items, wished=WISHED)).report
    goodput = report.goodput
    assert goodput is not None, WISHED
    trial = {
        "round": 0,
        "arm": arm,
        "setting": name,
        "sweep": sweep,
        sweep: value,
        "ttft_mean": report.ttft.mean / 1e3,
        "ttft_p99": report.ttft.p99 / 1e3,
        "tpot_mean": report.tpot.mean / 1e3,
        "violated": 1 - goodput.met,
        "violated_ttft": 1 - goodput.ttft_met,
        "violated_tpot": 1 - goodput.tpot_met,
        "output_rate": report.output_rate,
        "steps": report.steps,
        "preemptions": report.preemptions,
        "stored_bytes": report.stored_bytes,
        "loaded_bytes": report.loaded_bytes,
    }
    said = f"mean TTFT {trial['ttft_mean']:.3g} s, {trial['violated']:.0%} violated"
    print(f"{name} {sweep} {value:g} {arm}: {said}", file=sys.stderr)
    return trial


def main() -> None:
    asked = arguments()
    with Pool(AT_ONCE) as pool:
        trials = pool.map(simulated, jobs(asked), chunksize=1)
    append(asked.output, seed=asked.seed, trials=trials, how="simulated")
    print(table(trials))


if __name__ == "__main__":
    main()
