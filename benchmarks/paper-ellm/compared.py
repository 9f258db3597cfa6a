"""Tables of a run, and the paper's figures beside ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from arms import OURS
from workloads import TIGHT, WORKLOADS

from harness.results import Run, Trial

# A rate is served if so many requests meet both objectives (DistServe's criterion).
ATTAINED = 0.9


def newest(runs: Sequence[Run]) -> Run:
    """The last run, and of every part that it left out the last that had it."""
    found: Run = {}
    for run in runs:
        found |= {key: value for key, value in run.items() if value not in ([], {})}
    return found


def attained(trials: Sequence[Trial], arm: str) -> float:
    """The rate at which `ATTAINED` of the requests are met, on the line between two that were
    tried; 0 if it is below the lowest, the highest if it is not reached."""
    points = sorted((t["rate"], t["met"]) for t in trials if t["arm"] == arm)
    if points[0][1] < ATTAINED:
        return 0.0
    for (low, more), (high, less) in pairwise(points):
        if less < ATTAINED:
            return float(low + (high - low) * (more - ATTAINED) / (more - less))
    return float(points[-1][0])


def largest_ratio(
    trials: Sequence[Trial], figure: str, arm: str, base: str
) -> tuple[float, Trial, Trial]:
    """The rate at which `base`'s figure is the most times `arm`'s."""
    ours = {t["rate"]: t for t in trials if t["arm"] == arm}
    pairs = [
        (t[figure] / ours[t["rate"]][figure], t, ours[t["rate"]])
        for t in trials
        if t["arm"] == base
    ]
    return max(pairs, key=lambda pair: pair[0])


def of(run: Run, workload: str) -> list[Trial]:
    return [trial for trial in run["rates"] if trial["workload"] == workload]


def tables(run: Run) -> str:
    """Everything, as Markdown."""
    parts = [_shares(run), _batches(run), _hosts(run)]
    parts += [_rates(run, name) for name in dict.fromkeys(t["workload"] for t in run["rates"])]
    if run.get("growth"):
        parts += [_growth(run)]
    parts += [_ablations(run)]
    return "\n\n".join(parts)


def _shares(run: Run) -> str:
    rows = [["context", "static", "KV beside, tokens", "static+chunked", "KV beside, tokens"]]
    by = {(t["arm"], t["context"]): t for t in run["shares"]}
    for context in dict.fromkeys(t["context"] for t in run["shares"]):
        row = [f"{context}"]
        for arm in ("static", "static+chunked"):
            one = by[arm, context]
            row += [f"{one['share']:.1%}", f"{one['kv_tokens']}"]
        rows.append(row)
    return "Set aside for activations, of 80 GiB\n\n" + _markdown(rows)


def _batches(run: Run) -> str:
    rows = [["input", "arm", "sequences", "decode tokens/s", "offline tokens/s", "preempted"]]
    for trial in run["batches"]:
        rows.append(
            [
                f"{trial['input']}",
                trial["arm"],
                _beside(run["batches"], trial, "sequences"),
                _beside(run["batches"], trial, "decode_rate"),
                _beside(run["batches"], trial, "offline_rate"),
                f"{trial['offline_preemptions']} of {trial['offline_requests']}",
            ]
        )
    return "Largest batch and decoding, against `static`\n\n" + _markdown(rows)


def _beside(trials: Sequence[Trial], trial: Trial, figure: str) -> str:
    """A figure, and its ratio to `static`'s."""
    base = next(t for t in trials if t["arm"] == "static" and t["input"] == trial["input"])
    return f"{trial[figure]:.4g} ({trial[figure] / base[figure]:.2f})"


def _hosts(run: Run) -> str:
    rows = [["KV read at", "a step at least", "static", "elastic", "ratio"]]
    for one in run["hosts"]:
        rows.append(
            [
                f"{one['bandwidth']:.0%}",
                f"{1e3 * one['host']:g} ms",
                f"{one['static']:.1f}",
                f"{one['elastic']:.1f}",
                f"{one['elastic'] / one['static']:.2f}",
            ]
        )
    return "Decode tokens/s at the longest input, by what a step takes the host\n\n" + _markdown(
        rows
    )


def _rates(run: Run, workload: str) -> str:
    trials = of(run, workload)
    arms = list(dict.fromkeys(t["arm"] for t in trials))
    wished: Mapping[str, float] = run["objectives"][workload]
    title = f"{workload}: TTFT {wished['ttft']:.3g} s, TPOT {wished['tpot']:.3g} s. Requests met "
    rows = [["requests/s", *arms]]
    for rate in sorted({t["rate"] for t in trials}):
        cells = [next(t for t in trials if t["arm"] == a and t["rate"] == rate) for a in arms]
        rows.append([f"{rate:g}", *(f"{t['met']:.2f} ({t['ttft_mean']:.3g} s)" for t in cells)])
    rows.append(["**90 % at**", *(f"{attained(trials, arm):.2f}" for arm in arms)])
    lines = [title + "(mean TTFT)", "", _markdown(rows), ""]
    lines += [_against(trials, arm) for arm in arms if arm != OURS and OURS in arms]
    return "\n".join(lines)


def _against(trials: Sequence[Trial], arm: str) -> str:
    ours, theirs = attained(trials, OURS), attained(trials, arm)
    mean, slow, fast = largest_ratio(trials, "ttft_mean", OURS, arm)
    same = max(
        (t for t in trials if t["arm"] == OURS),
        key=lambda t: t["met"] / max(_at(trials, arm, t["rate"])["met"], 1e-9),
    )
    other = _at(trials, arm, same["rate"])
    ratio = f"{ours / theirs:.2f}x" if theirs else "without bound"
    met = same["met"] / max(other["met"], 1e-9)
    return (
        f"* against {arm}: goodput {ratio} ({ours:.2f} and {theirs:.2f}/s); mean TTFT at most "
        f"{mean:.0f}x, {slow['ttft_mean']:.3g} and {fast['ttft_mean']:.3g} s at "
        f"{slow['rate']:g}/s; met at most {met:.2f}x, at {same['rate']:g}/s"
    )


def _at(trials: Sequence[Trial], arm: str, rate: float) -> Any:
    return next(t for t in trials if t["arm"] == arm and t["rate"] == rate)


def _growth(run: Run) -> str:
    """Mean TTFT by the length of a run; the shortest is among the rates."""
    rate = run["growth_rate"]
    trials = [t for t in of(run, TIGHT) if t["rate"] == rate]
    shortest = [{"requests": WORKLOADS[TIGHT].count, **t} for t in trials]
    rows = [["requests", "static", OURS, "ratio"]]
    every = [*shortest, *run["growth"]]
    for count in dict.fromkeys(t["requests"] for t in every):
        static, ours = (
            next(t["ttft_mean"] for t in every if t["requests"] == count and t["arm"] == arm)
            for arm in ("static", OURS)
        )
        rows.append([f"{count}", f"{static:.3g} s", f"{ours:.3g} s", f"{static / ours:.0f}"])
    return f"Mean TTFT at {rate:g} requests/s, by how many requests come\n\n" + _markdown(rows)


def _ablations(run: Run) -> str:
    head = ["", "met", "mean TTFT, s", "p99 TTFT, s", "p50 TPOT, ms", "p99 TPOT, ms"]
    rows = [[*head, "tokens/s", "yielded (below)", "driver in a step", "between", "p99 in a step"]]
    for t in run["ablations"]:
        rows.append(
            [
                t["arm"],
                f"{t['met']:.3f}",
                f"{t['ttft_mean']:.3g}",
                f"{t['ttft_p99']:.3g}",
                f"{1e3 * t['tpot_p50']:.1f}",
                f"{1e3 * t['tpot_p99']:.1f}",
                f"{t['output_rate']:.0f}",
                f"{t['preemptions']} ({t['swapped']})",
                f"{t['driver_critical']:.2%}",
                f"{t['driver_tidy']:.2%}",
                f"< {1e3 * t['driver_longest']:g} ms",
            ]
        )
    return f"Parts left out, {run['tight']}\n\n" + _markdown(rows)


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    head, *body = rows
    lines = ["| " + " | ".join(head) + " |", "| --- |" + " --: |" * (len(head) - 1)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in body)])
