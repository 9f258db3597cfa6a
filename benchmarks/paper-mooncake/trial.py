"""One arm under the trace, at one rate."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from setting import ARMS, TBT, TTFT, deployment

from ellm.core.load import StepLoad
from ellm.obs.spread import percentile
from ellm.sim.cluster import Dispatch
from ellm.sim.deployment import Deployment
from ellm.sim.scenario import Scenario, simulate
from ellm.sim.served import Served
from ellm.sim.workload.item import Item

SHARES = {"p50": 0.5, "p90": 0.9, "p99": 0.99}


def trial(
    name: str,
    items: Sequence[Item],
    rate: float,
    nodes: int = 1,
    dispatch: Dispatch = Dispatch.LEAST_LOADED,
) -> dict[str, Any]:
    """`items` come at `rate` requests a second."""
    began = time.process_time()
    served_by = deployment(ARMS[name], nodes)
    outcome = simulate(Scenario(deployment=served_by, items=items, dispatch=dispatch))
    report, served = outcome.report, outcome.served
    assert report.finished == len(items), report.reasons
    cpu = time.process_time() - began
    return {
        "round": 0,
        "arm": name,
        "nodes": nodes,
        "dispatch": dispatch.value,
        "rate": rate,
        "requests": len(items),
        "found": sum(one.cached for one in served) / sum(one.prompt for one in served),
        "prefill_seconds": round(sum(prefill(served_by, one) for one in served), 1),
        "seconds": round(report.duration, 2),
        "request_rate": round(report.request_rate, 4),
        "output_rate": round(report.output_rate, 2),
        "busy": round(report.busy, 4),
        "effective": {f"{1e3 * tbt:.0f}": effective(served, tbt) for tbt in TBT},
        "ttft_mean": round(sum(one.ttft for one in served) / len(served), 4),
        **_spread("ttft", [one.ttft for one in served]),
        **_spread("tpot", [one.tpot for one in served if one.tpot is not None]),
        **_spread("longest", [one.longest for one in served]),
        "stored_bytes": report.stored_bytes,
        "loaded_bytes": report.loaded_bytes,
        "preemptions": report.preemptions,
        "steps": report.steps,
        "cpu": round(cpu, 1),
    }


def prefill(served_by: Deployment, one: Served) -> float:
    """Seconds that a node computes for the prompt, were it alone and computed in one step."""
    new = one.prompt - one.cached
    return sum(stage.seconds((StepLoad.of([(new, one.cached)]),)) for stage in served_by.stages)


def effective(served: Sequence[Served], tbt: float) -> dict[str, float]:
    """The share with the first token in time and those after it at most `tbt` seconds apart: on
    average (`mean`), or each of them (`every`)."""
    prompt = [one for one in served if one.ttft <= TTFT]
    return {
        "mean": sum((one.tpot or 0.0) <= tbt for one in prompt) / len(served),
        "every": sum(one.longest <= tbt for one in prompt) / len(served),
    }


def _spread(name: str, values: Sequence[float]) -> dict[str, float]:
    return {f"{name}_{key}": round(percentile(values, share), 4) for key, share in SHARES.items()}


def line(trial: dict[str, Any]) -> str:
    """One trial for whoever looks on."""
    return (
        f"{trial['nodes']} nodes, {trial['dispatch']}, {trial['rate']:g}/s, {trial['arm']}: "
        f"found {trial['found']:.1%}, ttft {trial['ttft_mean']:.2f} ({trial['ttft_p50']:.2f}, "
        f"{trial['ttft_p99']:.2f}) s, tpot {1e3 * trial['tpot_p50']:.0f}, longest "
        f"{1e3 * trial['longest_p99']:.0f} ms, effective {trial['effective']}, "
        f"{trial['output_rate']:.0f} tokens/s, busy {trial['busy']:.0%}, "
        f"{trial['preemptions']} preempted, {trial['steps']} steps, cpu {trial['cpu']:.1f} s"
    )
