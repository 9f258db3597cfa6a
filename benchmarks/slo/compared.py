"""What the targets ask for, read off a sweep."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from harness.results import Trial

OURS = "elastic+tier"
# What a rate counts as served at (DistServe's criterion).
ATTAINED = 0.9


def table(name: str, trials: Sequence[Trial]) -> str:
    """A sweep as Markdown: goodput by rate, then the comparisons."""
    arms = list(dict.fromkeys(str(trial["arm"]) for trial in trials))
    rates = sorted({float(trial["rate"]) for trial in trials})
    rows = [f"### {name}: goodput (p99 TTFT) by rate", ""]
    rows += ["| requests/s | " + " | ".join(arms) + " |", "| --: |" + " --: |" * len(arms)]
    for rate in rates:
        cells = []
        for arm in arms:
            one = _at(trials, arm, rate)
            cells.append(f"{one['goodput']:.3g} ({one['ttft_p99']:.3g} s)")
        rows.append(f"| {rate:g} | {' | '.join(cells)} |")
    if OURS in arms:
        rows += ["", *(line for arm in arms if arm != OURS for line in _against(trials, arm))]
    return "\n".join([*rows, ""])


def _against(trials: Sequence[Trial], arm: str) -> list[str]:
    """Ours against another arm: at one rate, each at its best, and by what is attained."""
    best, other = _best(trials, OURS), _best(trials, arm)
    same = _at(trials, arm, best["rate"])
    ours, theirs = _attained(trials, OURS), _attained(trials, arm)
    late = [(_at(trials, arm, t["rate"]), t) for t in trials if t["arm"] == OURS]
    base, mine = max(late, key=lambda pair: pair[0]["ttft_p99"] / pair[1]["ttft_p99"])
    percent = 100 * (1 - mine["output_rate"] / base["output_rate"])
    points = 100 * (mine["met"] - base["met"])
    return [
        f"* {OURS} against {arm}: goodput {best['goodput'] / max(same['goodput'], 1e-9):.2f}x at "
        f"{best['rate']:g}/s, {best['goodput'] / other['goodput']:.2f}x best against best; "
        f"{ATTAINED:.0%} attained up to {ours:g}/s against {theirs:g}/s; p99 TTFT "
        f"{base['ttft_p99']:.3g} s against our {mine['ttft_p99']:.3g} s at {mine['rate']:g}/s, "
        f"where throughput is {percent:.1f} % lower and {points:.1f} points more requests are met",
    ]


def _at(trials: Sequence[Trial], arm: str, rate: float) -> Any:
    return next(t for t in trials if t["arm"] == arm and t["rate"] == rate)


def _best(trials: Sequence[Trial], arm: str) -> Any:
    return max((t for t in trials if t["arm"] == arm), key=lambda t: t["goodput"])


def _attained(trials: Sequence[Trial], arm: str) -> float:
    """The highest rate at which nine in ten meet both objectives; 0 for none."""
    good = (t["rate"] for t in trials if t["arm"] == arm and t["met"] >= ATTAINED)
    return max(good, default=0.0)
