"""How far simulated times are from measured ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean

from ellm.obs.spread import percentile
from harness.results import Trial

METRICS = ("ttft", "tpot", "e2e")
STATISTICS = ("mean", "p50", "p90", "p99")
_SHARES = {"p50": 0.5, "p90": 0.9, "p99": 0.99}

Times = Mapping[str, Sequence[float]]
"""Seconds of every request, by metric."""


def statistic(name: str, times: Sequence[float]) -> float:
    return mean(times) if name == "mean" else percentile(times, _SHARES[name])


def figures(times: Times) -> dict[str, dict[str, float]]:
    """Milliseconds by metric and statistic."""
    return {
        metric: {name: 1e3 * statistic(name, times[metric]) for name in STATISTICS}
        for metric in METRICS
    }


def per_request(measured: Times, simulated: Times) -> dict[str, float]:
    """Mean of |simulated - measured| / measured over requests, by metric.

    Two tokens that the client read at once took no time: of those nothing can be said.
    """
    return {
        metric: mean(
            abs(s / m - 1) for m, s in zip(measured[metric], simulated[metric], strict=True) if m
        )
        for metric in METRICS
    }


def errors(trial: Trial) -> dict[str, dict[str, float]]:
    """(simulated - measured) / measured, by metric and statistic."""
    measured, simulated = trial["measured"], trial["simulated"]
    return {
        metric: {name: simulated[metric][name] / measured[metric][name] - 1 for name in STATISTICS}
        for metric in METRICS
    }


def mape(trials: Sequence[Trial]) -> dict[str, dict[str, float]]:
    """Mean absolute error over workloads, by metric and statistic; `each` is that of requests."""
    found: dict[str, dict[str, float]] = {}
    for metric in METRICS:
        row = {
            name: mean(abs(errors(trial)[metric][name]) for trial in trials) for name in STATISTICS
        }
        found[metric] = {**row, "each": mean(trial["per_request"][metric] for trial in trials)}
    return found


def rank_agreement(trials: Sequence[Trial]) -> dict[str, dict[str, float]]:
    """Spearman's correlation, over workloads, of simulated with measured percentiles."""
    return {
        metric: {
            name: _spearman(
                [trial["measured"][metric][name] for trial in trials],
                [trial["simulated"][metric][name] for trial in trials],
            )
            for name in STATISTICS
        }
        for metric in METRICS
    }


def _spearman(first: Sequence[float], second: Sequence[float]) -> float:
    count = len(first)
    if count < 2:
        return 1.0
    pairs = zip(_ranks(first), _ranks(second), strict=True)
    squares = sum((a - b) ** 2 for a, b in pairs)
    return 1 - 6 * squares / (count * (count * count - 1))


def _ranks(values: Sequence[float]) -> list[int]:
    order = sorted(range(len(values)), key=values.__getitem__)
    ranks = [0] * len(values)
    for rank, place in enumerate(order):
        ranks[place] = rank
    return ranks


def table(model: str, trials: Sequence[Trial]) -> str:
    """Errors in percent, a line a workload."""
    head = [f"{metric} {name}" for metric in METRICS for name in ("mean", "p50", "p99", "each")]
    rows = [
        f"| {model} | " + " | ".join(head) + " | preempted | others |",
        "| --- |" + " --: |" * (len(head) + 2),
    ]
    for trial in trials:
        off = errors(trial)
        cells = []
        for metric in METRICS:
            cells += [f"{100 * off[metric][name]:+.1f}" for name in ("mean", "p50", "p99")]
            cells.append(f"{100 * trial['per_request'][metric]:.1f}")
        cells.append(f"{trial['preemptions']} / {trial['simulated_preemptions']}")
        cells.append(f"{trial['other_cpus']:.2f}")
        rows.append(f"| {trial['workload']} | {' | '.join(cells)} |")
    total, ranks = mape(trials), rank_agreement(trials)
    rows += [
        "",
        "| MAPE % (rank) | mean | p50 | p90 | p99 | per request |",
        "| --- |" + 5 * " --: |",
    ]
    for metric in METRICS:
        cells = [
            f"{100 * total[metric][name]:.1f} ({ranks[metric][name]:.2f})" for name in STATISTICS
        ]
        cells.append(f"{100 * total[metric]['each']:.1f}")
        rows.append(f"| {metric} | {' | '.join(cells)} |")
    return "\n".join(rows)
