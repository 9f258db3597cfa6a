"""Wall time of the simulator: requests an hour, cost of a step, and what a queue does to it."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1]))

from ellm.core.config import MemoryConfig, SchedulerConfig, SchedulingPolicy
from ellm.sim.anatomy.shapes import find_transformer
from ellm.sim.cluster import Cluster
from ellm.sim.deployment import Deployment
from ellm.sim.devices.known import find_device
from ellm.sim.workload.arrivals import arrivals, timed
from ellm.sim.workload.item import Item
from ellm.sim.workload.lengths import fixed
from ellm.sim.workload.traces import read_trace
from harness import options, results, traces

HERE = Path(__file__).resolve().parent
ARMS = ("small-steps", "azure", "chat", "batch", "queue")
AZURE = "azure/AzureLLMInferenceTrace_conv.csv"
BATCHES = (1, 8, 64, 256)
QUEUES = (100_000, 50_000, 10_000, 1_000)
WINDOW = 400  # steps


def cluster(sequences: int, policy: SchedulingPolicy = SchedulingPolicy.FCFS) -> Cluster:
    """Fresh engines for `llama-3.1-8b` on one A100."""
    presses = policy is SchedulingPolicy.SLO
    limits = SchedulerConfig(
        max_num_seqs=sequences,
        max_model_len=16_384,
        policy=policy,
        ttft_slo=1.0 if presses else None,
        tpot_slo=0.05 if presses else None,
    )
    deployment = Deployment.by_roofline(
        find_transformer("llama-3.1-8b"),
        find_device("A100-80GB"),
        memory=MemoryConfig(prefix_caching=False),
        limits=limits,
    )
    return Cluster(deployment.lanes(), deployment.device.overhead)


def workload(arm: str, count: int) -> Sequence[Item]:
    if arm == "azure":
        return read_trace(traces.find(AZURE), count).items
    if arm == "chat":
        return read_trace("chat").items
    return timed(fixed(count, 32, 8), arrivals(count, 1000.0, 0))


def serve(arm: str, count: int) -> dict[str, Any]:
    """Requests an hour of wall time."""
    items = workload(arm, count)
    made = cluster(64 if arm == "small-steps" else 256)
    began = time.perf_counter()
    made.run(items)
    seconds = time.perf_counter() - began
    steps = made.engines[0].stats.steps
    return {
        "requests": len(items),
        "seconds": seconds,
        "simulated": made.now,
        "requests_an_hour": 3600 * len(items) / seconds,
        "us_a_step": 1e6 * seconds / steps,
        "rss": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def decode(sequences: int, steps: int) -> dict[str, Any]:
    """A step of so many sequences that decode."""
    made = cluster(sequences)
    began = time.perf_counter()
    made.run(fixed(sequences, 64, steps))
    seconds = time.perf_counter() - began
    return {"sequences": sequences, "us_a_step": 1e6 * seconds / made.engines[0].stats.steps}


def queue(policy: SchedulingPolicy, depths: Sequence[int]) -> Iterator[dict[str, Any]]:
    """A step while so many requests wait, of which some start in each."""
    made = cluster(64, policy)
    engine = made.engines[0]
    left = sorted(depths)
    began: tuple[float, int] | None = None
    found: list[dict[str, Any]] = []

    def look(now: float, ended: int) -> None:
        nonlocal began
        steps = engine.stats.steps
        if began is None and left and engine.num_waiting <= left[-1] + 10 * WINDOW:
            began = (time.perf_counter(), steps)
        elif began is not None and steps >= began[1] + WINDOW:
            seconds = time.perf_counter() - began[0]
            found.append({"waiting": left.pop(), "us_a_step": 1e6 * seconds / WINDOW})
            began = None

    made.run(fixed(depths[0] * 11 // 10, 64, 8), look)
    rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    for each in found:
        yield each | {"policy": policy.value, "rss": rss}


def main() -> None:
    asked = options.parser(__doc__ or "", HERE, ARMS, rounds=3).parse_args()
    scale = 20 if asked.quick else 1
    trials: list[dict[str, Any]] = []
    for turn in range(asked.rounds):
        for arm in asked.arms:
            trials += [
                {"round": turn, "arm": arm, **figures}
                for figures in measured(arm, scale, asked.quick)
            ]
    for trial in trials:
        print({name: round(v, 1) if isinstance(v, float) else v for name, v in trial.items()})
    results.append(asked.output, seed=asked.seed, trials=trials, rounds=asked.rounds)


def measured(arm: str, scale: int, quick: bool) -> Iterator[dict[str, Any]]:
    if arm == "batch":
        yield from (decode(sequences, 2000 // scale) for sequences in BATCHES)
    elif arm == "queue":
        depths = QUEUES[2:] if quick else QUEUES
        for policy in SchedulingPolicy:
            yield from queue(policy, depths)
    else:
        yield serve(arm, {"small-steps": 100_000, "azure": 10_000}.get(arm, 0) // scale)


if __name__ == "__main__":
    main()
