"""Why the best plan is the best, from its numbers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ellm.core.units import format_bytes
from ellm.planner.anatomy import Anatomy, anatomy
from ellm.planner.case import Case
from ellm.planner.figures import Figures
from ellm.planner.objective import Objective, Wish
from ellm.planner.search import Trial

# Parts of a step, as a person would say it.
_PARTS = {
    "products": "products",
    "cached": "reading cached keys and values",
    "travel": "exchanges between devices",
    "overhead": "planning and launching",
}
# A share below which a difference explains nothing.
_NOTICED = 0.02


@dataclass(frozen=True, slots=True)
class _Contrast:
    """A figure of both plans; `ratio` is how much better the first has it."""

    said: str
    ratio: float
    per_token: bool = False


def reason(case: Case, wish: Wish, best: Trial, other: Trial) -> str:
    """A sentence: in which figure `best` is better than `other`, and what makes it so."""
    mine, theirs = best.figures, other.figures
    if wish.value(theirs) >= wish.value(mine) * (1 - wish.tie):
        return _cheaper(mine, theirs, wish)
    contrast = max(_contrasts(wish.objective, mine, theirs), key=lambda one: one.ratio)
    cause = _cause(case, best, other, contrast.per_token)
    return f"{contrast.said}: {cause}" if cause else contrast.said


def _cheaper(mine: Figures, theirs: Figures, wish: Wish) -> str:
    equal = "both reach it" if wish.floor is not None else "they are as good within 1 %"
    if mine.devices < theirs.devices:
        devices = "1 device" if mine.devices == 1 else f"{mine.devices} devices"
        return f"{equal}, and it takes {devices} instead of {theirs.devices}"
    return f"{equal}, and it takes {mine.joules:.2f} J a token instead of {theirs.joules:.2f} J"


def _contrasts(objective: Objective, mine: Figures, theirs: Figures) -> Iterator[_Contrast]:
    if objective is Objective.THROUGHPUT:
        rates = f"{mine.output_rate:.0f} output tokens/s against {theirs.output_rate:.0f}"
        yield _Contrast(rates, _ratio(mine.output_rate, theirs.output_rate), per_token=True)
    elif objective is Objective.ENERGY:
        joules = f"{mine.joules:.2f} J a token against {theirs.joules:.2f} J"
        yield _Contrast(joules, _ratio(theirs.joules, mine.joules), per_token=True)
    elif objective is Objective.LATENCY:
        times = f"{mine.e2el:.2f} s to an answer on average against {theirs.e2el:.2f} s"
        yield _Contrast(times, _ratio(theirs.e2el, mine.e2el))
    else:
        for name in ("ttft", "tpot"):
            one, two = getattr(mine, name), getattr(theirs, name)
            said = f"{name.upper()} p95 {1e3 * one:.3g} ms against {1e3 * two:.3g} ms"
            yield _Contrast(said, _ratio(two, one))


def _ratio(more: float, less: float) -> float:
    return more / less if less else 1.0


def _cause(case: Case, best: Trial, other: Trial, per_token: bool) -> str:
    """What differs most in favour of the best."""
    mine, theirs = anatomy(case, best), anatomy(case, other)
    scale = (mine.per_token, theirs.per_token) if per_token else (1.0, 1.0)
    if part := _most(mine, theirs, scale):
        return _told(part, mine, theirs, scale, best, other)
    lanes = [trial.plan.replicas * trial.plan.stages for trial in (best, other)]
    if lanes[0] > lanes[1]:
        return f"{lanes[0]} groups of devices step side by side instead of {lanes[1]}"
    busy = [100 * trial.report.busy for trial in (best, other)]
    if busy[0] < busy[1] - 1:
        return f"devices are busy for {busy[0]:.0f} % of the time instead of {busy[1]:.0f} %"
    rooms = [trial.prospect.need.room // trial.prospect.need.token for trial in (best, other)]
    if rooms[0] > rooms[1] and best.report.preemptions < other.report.preemptions:
        return f"a device has room for {rooms[0]} tokens of KV instead of {rooms[1]}"
    # Where devices wait for requests, the last answer is there sooner.
    if part := _most(mine, theirs, (1.0, 1.0)):
        return _told(part, mine, theirs, (1.0, 1.0), best, other)
    return ""


def _most(mine: Anatomy, theirs: Anatomy, scale: tuple[float, float]) -> str | None:
    """The part of a step, or of a token's share of one, in which the best gains most."""
    gains = {
        part: getattr(theirs, part) * scale[1] - getattr(mine, part) * scale[0] for part in _PARTS
    }
    part = max(gains, key=lambda name: gains[name])
    return part if gains[part] > _NOTICED * theirs.seconds * scale[1] else None


def _told(
    part: str,
    mine: Anatomy,
    theirs: Anatomy,
    scale: tuple[float, float],
    best: Trial,
    other: Trial,
) -> str:
    one, two = getattr(mine, part) * scale[0], getattr(theirs, part) * scale[1]
    unit, of = ("device-ms", "a token") if scale != (1.0, 1.0) else ("ms", "of a step")
    told = f"{_PARTS[part]} take {1e3 * one:.3g} {unit} {of} instead of {1e3 * two:.3g} {unit}"
    weights = [trial.prospect.need.weights for trial in (best, other)]
    if part != "products":
        return told
    if weights[0] < weights[1] * (1 - _NOTICED):
        return (
            f"{told}, as a device holds {format_bytes(weights[0])} of weights instead of "
            f"{format_bytes(weights[1])}"
        )
    if scale != (1.0, 1.0) and mine.sequences > theirs.sequences * (1 + _NOTICED):
        return (
            f"{told}, as {mine.sequences:.0f} sequences share a step instead of "
            f"{theirs.sequences:.0f}"
        )
    return told


def gain(wish: Wish, best: Trial, usual: Trial) -> str:
    """How far the best plan beats the heuristic one."""
    plain = Wish(wish.objective, wish.slo)
    mine, theirs = plain.value(best.figures), plain.value(usual.figures)
    name = {
        Objective.THROUGHPUT: "the throughput",
        Objective.GOODPUT: "the goodput",
        Objective.LATENCY: "1/latency",
        Objective.ENERGY: "the tokens per joule",
    }[wish.objective]
    times = f"{mine / theirs:.2f}x {name}" if theirs else f"{name} where that has none"
    devices = (best.figures.devices, usual.figures.devices)
    return (
        times if devices[0] == devices[1] else f"{times}, on {devices[0]} of {devices[1]} devices"
    )
