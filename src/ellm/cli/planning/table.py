"""Plans as lines for a person."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ellm.planner.objective import Wish
from ellm.planner.search import Counts, Found, Trial
from ellm.sim.anatomy.transformer import Transformer

# Rows of the table: who comes after them is in the report.
MOST_ROWS = 12
_JUDGED = ("good req/s", "met")
_HEADS = ("devices", *_JUDGED, "tokens/s", "TTFT p95", "TPOT p95", "J/token")


def count_line(counts: Counts) -> str:
    """What became of all plans."""
    said = {
        "do not fit": counts.unfit,
        "are as good as another": counts.alike,
        "cannot be best": counts.bounded,
        "are worse by estimate": counts.estimated,
        "are worse on the first requests": counts.halved,
        "simulated": counts.simulated,
    }
    parts = [f"{count} {what}" for what, count in said.items() if count]
    return f"{sum(said.values())} plans: " + ", ".join(parts)


def rows(found: Found, transformer: Transformer, wish: Wish) -> Iterator[str]:
    """The front, and the heuristic plan; times in milliseconds."""
    shown = listed(found)
    names = [trial.plan.describe(transformer) for trial in shown]
    width = max(len(name) for name in names) + 2
    heads = [head for head in _HEADS if wish.slo.stated or head not in _JUDGED]
    yield "".join([f"{'plan':<{width}}", *(f"{head:>11}" for head in heads)])
    for trial, name in zip(shown, names, strict=True):
        cells = "".join(f"{cell:>11}" for cell in _cells(trial))
        yield f"{name:<{width}}{cells}  {mark(found, trial)}".rstrip()
    hidden = len({id(one) for one in found.front} - {id(one) for one in shown})
    if hidden:
        yield f"and {hidden} more on the front, in the report"


def listed(found: Found) -> Sequence[Trial]:
    """Of the front the best for the objective, and whoever has a name."""
    named = [found.best, *(one for one in (found.second, found.usual) if one is not None)]
    shown = [*found.front[:MOST_ROWS], *named]
    return [one for one in found.trials if any(one is other for other in shown)]


def mark(found: Found, trial: Trial) -> str:
    """What is to be said of a plan."""
    said = {
        "best": trial is found.best,
        "runner-up": trial is found.second,
        "heuristic": trial is found.usual,
        "not on the front": all(trial is not one for one in found.front),
    }
    return ", ".join(name for name, holds in said.items() if holds)


def _cells(trial: Trial) -> Iterator[str]:
    figures = trial.figures
    yield str(figures.devices)
    if figures.good_rate is not None:
        yield f"{figures.good_rate:.2f}"
    if figures.met is not None:
        yield f"{100 * figures.met:.1f} %"
    yield f"{figures.output_rate:.0f}"
    yield f"{1e3 * figures.ttft:.0f}"
    yield f"{1e3 * figures.tpot:.1f}"
    yield f"{figures.joules:.2f}"
