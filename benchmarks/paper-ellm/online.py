"""Requests that come one after another: who is served in time, and what each part is worth."""

from __future__ import annotations

from arms import ABLATIONS, ARMS, OURS, Arm
from simulated import Run, served
from workloads import TIGHT, WORKLOADS

from harness.results import Trial

# A rate at which memory is short and most can still be served in time.
TIGHT_RATE = 2.8
# A rate that fixed shares cannot serve and we can, and requests in longer and longer runs of it.
GROWTH_RATE = 2.2
GROWTH = (1000, 2000, 3000)
GROWTH_ARMS = ("static", OURS)


def at_rate(workload: str, name: str, rate: float, count: int, seed: int) -> Trial:
    return {"workload": workload, "rate": rate, "arm": name} | _figures(
        ARMS[name], workload, rate, count, seed
    )


def ablated(name: str, count: int, seed: int) -> Trial:
    return {"arm": name} | _figures(ABLATIONS[name], TIGHT, TIGHT_RATE, count, seed)


def grown(name: str, count: int, seed: int) -> Trial:
    return {"arm": name, "requests": count} | _figures(ARMS[name], TIGHT, GROWTH_RATE, count, seed)


def _figures(arm: Arm, workload: str, rate: float, count: int, seed: int) -> dict[str, float]:
    asked = WORKLOADS[workload]
    run = served(arm, asked.items(count, rate, seed), asked.wished(count, seed))
    return {**_felt(run), **_driver(run)}


def _felt(run: Run) -> dict[str, float]:
    """Seconds, and shares of all requests."""
    report = run.report
    assert report.goodput is not None
    assert report.finished == report.requests
    return {
        "met": report.goodput.met,
        "met_ttft": report.goodput.ttft_met,
        "met_tpot": report.goodput.tpot_met,
        "ttft_mean": report.ttft.mean / 1e3,
        "ttft_p99": report.ttft.p99 / 1e3,
        "tpot_p50": report.tpot.median / 1e3,
        "tpot_p99": report.tpot.p99 / 1e3,
        "output_rate": report.output_rate,
        "preemptions": report.preemptions,
        "swapped": report.swapped,
    }


def _driver(run: Run) -> dict[str, float]:
    """Seconds in driver calls while a step waited and between steps, as shares of the run; and
    most of them in a step."""
    report, elastic = run.report, run.elastic
    return {
        "driver_critical": elastic.critical_driver.total / report.duration,
        "driver_tidy": elastic.tidy_driver.total / report.duration,
        "driver_longest": _longest(elastic.critical_driver.bounds, elastic.critical_driver.counts),
    }


def _longest(bounds: tuple[float, ...], counts: list[int]) -> float:
    """The bound below which 99 in 100 steps are."""
    total, seen = sum(counts), 0
    for bound, count in zip(bounds, counts, strict=False):
        seen += count
        if seen >= 0.99 * total:
            return bound
    return bounds[-1]
