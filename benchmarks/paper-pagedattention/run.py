"""Request rates against normalised latency, by how memory for KV is given out; in virtual time."""

from __future__ import annotations

import argparse
import sys
from multiprocessing import Pool
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))

from compared import table
from contenders import CONTENDERS
from measured import Watch, normalized_latency
from workloads import WORKLOADS, items

from ellm.core.objectives import Objectives
from ellm.sim.cluster import Cluster
from ellm.sim.report import Report
from harness.options import parser
from harness.results import Trial, append

HERE = Path(__file__).resolve().parent
QUICK_SHARE = 20
# Processes that simulate at once.
AT_ONCE = 2
Job = tuple[str, str, float, argparse.Namespace]


def arguments() -> argparse.Namespace:
    options = parser(str(__doc__), HERE, list(CONTENDERS), rounds=1)
    options.add_argument("--workloads", default=",".join(WORKLOADS), help="comma-separated")
    asked = options.parse_args()
    asked.workloads = asked.workloads.split(",")
    return asked


def jobs(asked: argparse.Namespace) -> list[Job]:
    """Workload, arm and rate of each trial."""
    found: list[Job] = []
    for name in asked.workloads:
        for arm in asked.arms:
            rates = WORKLOADS[name].rates[arm]
            found += [(name, arm, rate, asked) for rate in (rates[-1:] if asked.quick else rates)]
    return found


def simulated(job: Job) -> Trial:
    name, arm, rate, asked = job
    workload = WORKLOADS[name]
    seconds = workload.seconds / (QUICK_SHARE if asked.quick else 1)
    coming = items(workload, seconds, rate, asked.seed)
    deployment = CONTENDERS[arm].deployment()
    lanes = deployment.lanes()
    last = coming[-1].arrival
    watch = Watch(engine=lanes[0].ranks[0], start=last / 2, end=last)
    cluster = Cluster(lanes, deployment.device.overhead, asked.seed, timeline=watch)
    cluster.run(coming)
    report = Report.of(cluster, deployment, Objectives())
    trial = {
        "round": 0,
        "arm": arm,
        "workload": name,
        "rate": rate,
        "normalized_latency": normalized_latency(cluster.served),
        "request_rate": report.request_rate,
        "batched": watch.mean("running"),
        "tokens": watch.mean("tokens"),
        "later": watch.mean("later"),
        "never": watch.mean("never"),
        "steps": report.steps,
        "preemptions": report.preemptions,
    }
    said = f"{trial['normalized_latency']:.3g} s/token, {trial['batched']:.3g} batched"
    print(f"{name} {rate:g}/s {arm}: {said}", file=sys.stderr)
    return trial


def main() -> None:
    asked = arguments()
    with Pool(AT_ONCE) as pool:
        trials = pool.map(simulated, jobs(asked), chunksize=1)
    append(asked.output, seed=asked.seed, trials=trials, how="simulated")
    print(table(trials))


if __name__ == "__main__":
    main()
