"""eLLM's evaluation at the paper's scale, in virtual time: Llama-3-8B-262K on one A100."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from functools import partial
from multiprocessing import Pool
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1]))

from arms import ABLATIONS, ARMS, MEMORIES
from batch import INPUTS, hosts, measured
from compared import newest, tables
from online import GROWTH, GROWTH_ARMS, GROWTH_RATE, TIGHT_RATE, ablated, at_rate, grown
from shares import published, shares
from workloads import TIGHT, TRACE, WORKLOADS

from harness import traces
from harness.options import parser
from harness.results import Trial, append, load

HERE = Path(__file__).resolve().parent
PARTS = ("batches", "rates", "growth", "ablations")
# Processes that simulate at once.
AT_ONCE = 2
QUICK_REQUESTS, QUICK_RATES, QUICK_INPUTS = 40, 2, (8192, 131_072)
QUICK_ABLATIONS = ("all parts", "without all of them")

Job = Callable[[], Trial]


def arguments() -> argparse.Namespace:
    options = parser(str(__doc__), HERE, list(ARMS), rounds=1)
    options.add_argument("--parts", default=",".join(PARTS), help="comma-separated")
    options.add_argument("--workloads", default=",".join(WORKLOADS), help="comma-separated")
    asked = options.parse_args()
    asked.parts = asked.parts.split(",")
    asked.workloads = [TIGHT] if asked.quick else asked.workloads.split(",")
    return asked


def jobs(asked: argparse.Namespace) -> dict[str, list[Job]]:
    """What is to be simulated, by part."""
    inputs = QUICK_INPUTS if asked.quick else INPUTS
    left_out = QUICK_ABLATIONS if asked.quick else ABLATIONS
    found: dict[str, list[Job]] = {
        "growth": [
            partial(grown, name, each, asked.seed)
            for each in ((QUICK_REQUESTS,) if asked.quick else GROWTH)
            for name in GROWTH_ARMS
        ],
        "batches": [partial(measured, name, each) for each in inputs for name in MEMORIES],
        "ablations": [partial(ablated, name, count(TIGHT, asked), asked.seed) for name in left_out],
        "rates": [
            partial(at_rate, workload, arm, rate, count(workload, asked), asked.seed)
            for workload in asked.workloads
            for rate in rates(workload, asked)
            for arm in asked.arms
        ],
    }
    return {part: found[part] for part in PARTS if part in asked.parts}


def count(workload: str, asked: argparse.Namespace) -> int:
    return QUICK_REQUESTS if asked.quick else WORKLOADS[workload].count


def rates(workload: str, asked: argparse.Namespace) -> list[float]:
    every = WORKLOADS[workload].rates
    return list(every[-QUICK_RATES:] if asked.quick else every)


def run_one(job: Job) -> Trial:
    found = job()
    point = {key: found[key] for key in ("workload", "rate", "input", "requests") if key in found}
    print(" ".join(map(str, (*point.values(), found["arm"]))), file=sys.stderr)
    return {"round": 0, **found}


def simulate(asked: argparse.Namespace) -> dict[str, list[Trial]]:
    parts = jobs(asked)
    flat = [job for part in parts.values() for job in part]
    with Pool(AT_ONCE) as pool:
        done = iter(pool.map(run_one, flat, chunksize=1))
    return {part: [next(done) for _ in each] for part, each in parts.items()}


def main() -> None:
    asked = arguments()
    if (
        "rates" in asked.parts and "sharegpt" in asked.workloads
    ):  # a pool waits for ever for a process that has ended
        traces.find(TRACE)
    simulated: dict[str, Any] = {part: [] for part in PARTS} | simulate(asked)
    objectives = {}
    for name in asked.workloads if "rates" in asked.parts else ():
        wished = WORKLOADS[name].wished(count(name, asked), asked.seed)
        objectives[name] = {"ttft": wished.ttft, "tpot": wished.tpot}
    append(
        asked.output,
        seed=asked.seed,
        trials=[],
        objectives=objectives,
        shares=shares(),
        published=published(),
        hosts=hosts(),
        tight=f"{TIGHT} at {TIGHT_RATE:g} requests/s",
        growth_rate=GROWTH_RATE,
        **simulated,
    )
    print(tables(newest(load(asked.output))))


if __name__ == "__main__":
    main()
