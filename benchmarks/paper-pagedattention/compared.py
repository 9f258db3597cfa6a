"""What the paper reports, read off the sweeps."""

from __future__ import annotations

from collections.abc import Sequence

from contenders import CONTENDERS
from measured import sustained

from harness.results import Trial

# Seconds a token: some ten times what a request takes alone, a quarter of the axis of figure 12.
LIMIT = 0.25


def table(trials: Sequence[Trial]) -> str:
    """Every workload as Markdown."""
    names = dict.fromkeys(str(trial["workload"]) for trial in trials)
    return "\n".join(
        line
        for name in names
        for line in _workload(name, [trial for trial in trials if trial["workload"] == name])
    )


def rates(trials: Sequence[Trial]) -> dict[str, float]:
    """What each arm sustains, where its sweep goes far enough."""
    found = {}
    for arm in CONTENDERS:
        points = [(t["rate"], t["normalized_latency"]) for t in trials if t["arm"] == arm]
        rate = sustained(points, LIMIT)
        if rate is not None:
            found[arm] = rate
    return found


def fullest(trials: Sequence[Trial]) -> dict[str, Trial]:
    """The trial of each arm with the highest rate."""
    return {str(t["arm"]): t for t in sorted(trials, key=lambda t: float(t["rate"]))}


def _workload(name: str, trials: Sequence[Trial]) -> list[str]:
    held = rates(trials)
    lines = [
        f"### {name}",
        "",
        f"| arm | requests/s at {LIMIT:g} s/token | paged is | past that: /s | batched | "
        "token states | for later tokens | for none | free or lost | preemptions |",
        "| --- |" + " --: |" * 9,
    ]
    for trial in fullest(trials).values():
        rate, paged = held.get(trial["arm"]), held.get("paged")
        times = f"{paged / rate:.2f} x" if rate and paged else ""
        parts = [trial["tokens"], trial["later"], trial["never"]]
        shares = " | ".join(f"{100 * share:.1f} %" for share in [*parts, 1 - sum(parts)])
        lines.append(
            f"| {trial['arm']} | {rate or 0:.2f} | {times} | {trial['rate']:g} | "
            f"{trial['batched']:.1f} | {shares} | {trial['preemptions']} |"
        )
    return [*lines, ""]
