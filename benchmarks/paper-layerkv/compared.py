"""What the paper reports, read off the sweeps."""

from __future__ import annotations

from collections.abc import Sequence

from arms import OURS, THEIRS

from harness.results import Trial


def table(trials: Sequence[Trial]) -> str:
    """Every sweep as Markdown: mean TTFT and violations of each arm, then the best ratios."""
    lines = []
    for setting in dict.fromkeys(str(trial["setting"]) for trial in trials):
        for sweep in ("context", "rate"):
            mine = [t for t in trials if t["setting"] == setting and t["sweep"] == sweep]
            if mine:
                lines += [*_sweep(f"{setting}, by {sweep}", mine, sweep), ""]
    return "\n".join(lines)


def _sweep(name: str, trials: Sequence[Trial], sweep: str) -> list[str]:
    arms = list(dict.fromkeys(str(trial["arm"]) for trial in trials))
    values = sorted({float(trial[sweep]) for trial in trials})
    lines = [
        f"### {name}: mean TTFT in s (violated, p99 TTFT in s)",
        "",
        f"| {sweep} | {' | '.join(arms)} |",
        "| --: |" + " --: |" * len(arms),
    ]
    for value in values:
        at = {str(trial["arm"]): trial for trial in trials if trial[sweep] == value}
        cells = [_cell(at[arm]) for arm in arms]
        lines.append(f"| {value:g} | {' | '.join(cells)} |")
    if THEIRS in arms:
        ours = [arm for arm in arms if arm != THEIRS]
        lines += ["", *(_against(trials, sweep, arm) for arm in ours)]
    return lines


def _cell(trial: Trial) -> str:
    first, last, share = trial["ttft_mean"], trial["ttft_p99"], trial["violated"]
    return f"{first:.3g} ({share:.0%}, {last:.3g})"


def pairs(trials: Sequence[Trial], sweep: str, arm: str) -> list[tuple[Trial, Trial]]:
    """`THEIRS` and `arm` at each value of the sweep."""
    theirs = {trial[sweep]: trial for trial in trials if trial["arm"] == THEIRS}
    return [(theirs[trial[sweep]], trial) for trial in trials if trial["arm"] == arm]


def _against(trials: Sequence[Trial], sweep: str, arm: str) -> str:
    both = pairs(trials, sweep, arm)
    ratios = {mine[sweep]: base["ttft_mean"] / mine["ttft_mean"] for base, mine in both}
    fewer = {mine[sweep]: 100 * (base["violated"] - mine["violated"]) for base, mine in both}
    slower = {
        mine[sweep]: 100 * (1 - mine["output_rate"] / base["output_rate"]) for base, mine in both
    }
    best, most = max(ratios, key=ratios.__getitem__), max(fewer, key=fewer.__getitem__)
    worst = max(slower, key=slower.__getitem__)
    bold = "**" if arm == OURS else ""
    return (
        f"* {bold}{arm}{bold} against {THEIRS}: mean TTFT {ratios[best]:.1f} times lower at "
        f"{best:g}; {fewer[most]:.0f} points fewer violations at {most:g}; throughput "
        f"{slower[worst]:.1f} % lower at worst, at {worst:g}"
    )
