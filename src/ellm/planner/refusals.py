"""Why there is no plan, in one line, and what would help."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from ellm.core.errors import BudgetError, ConfigError
from ellm.core.units import format_bytes
from ellm.planner.case import Case
from ellm.planner.need import fits
from ellm.planner.objective import Objective, Wish
from ellm.planner.prospect import Prospect
from ellm.planner.search import Found
from ellm.planner.space import device_counts, plans
from ellm.sim.anatomy.formats import BITS
from ellm.sim.anatomy.transformer import Transformer
from ellm.sim.parallel.plan import Plan

# Up to so many devices are tried before giving up on more of them.
_MOST_DEVICES = 1024
_NARROWER = ("fp8", "int4")


def require_requests(case: Case) -> None:
    """Raise ConfigError where an engine would refuse whatever is asked."""
    if not case.demand.asks:
        raise ConfigError(
            f"none of the {len(case.items)} requests fits a context of "
            f"{case.limits.max_model_len} tokens: raise --max-model-len, or shorten them with "
            "--scale-lengths"
        )


def require_fit(prospects: Sequence[Prospect], case: Case, most: int) -> None:
    """Raise BudgetError where no plan fits: for the nearest one, which bytes do not."""
    if any(one.at_best is not None for one in prospects):
        return
    nearest = min(prospects, key=lambda one: one.need.total / one.need.budget)
    need, plan = nearest.need, nearest.plan.describe(case.transformer)
    parts = [f"{format_bytes(need.weights)} of weights"]
    if need.states:
        parts.append(f"{format_bytes(need.states)} of recurrent states")
    parts += [
        f"{format_bytes(need.kv)} of KV for a context of {case.limits.max_model_len} tokens",
        f"{format_bytes(need.step)} for a step",
    ]
    given = "" if case.memory.budget is None else " by --memory"
    remedies = list(_remedies(case, nearest, most))
    raise BudgetError(
        f"{case.transformer.name} does not fit {most} x {case.device.name}: nearest is {plan}, "
        f"where a device needs {', '.join(parts)}, and has {format_bytes(need.budget)}{given}; "
        f"it would fit with {' or '.join(remedies) or 'larger devices'}"
    )


def _remedies(case: Case, nearest: Prospect, most: int) -> Iterator[str]:
    """What would be enough by itself, the smallest change of each kind."""
    if devices := _enough_devices(case, most):
        yield f"--max-gpus {devices}"
    for narrow in _NARROWER:
        if BITS[narrow] < BITS[case.formats.weights]:
            formats = replace(case.formats, weights=narrow)
            if _any_fits(replace(case, formats=formats), most):
                yield f"--dtype {narrow}"
                break
    if context := _longest_context(case, nearest.plan):
        yield f"--max-model-len {context}"


def _enough_devices(case: Case, most: int) -> int | None:
    counts = device_counts(_MOST_DEVICES, case.device.per_node)
    return next((count for count in counts if count > most and _fits(case, count)), None)


def _any_fits(case: Case, most: int) -> bool:
    return any(_fits(case, count) for count in device_counts(most, case.device.per_node))


def _fits(case: Case, devices: int) -> bool:
    space = plans(case.transformer, devices, case.device.per_node)
    return any(plan.replicas == 1 and fits(case, plan) for plan in space)


def _longest_context(case: Case, plan: Plan) -> int:
    """The longest that fits on that plan, a multiple of 1024 where it is longer; 0 for none."""
    longest = case.deployment(plan).with_longest_context()
    low = longest.limits.max_model_len
    if low == 1 and not longest.fits():
        return 0
    return low - low % 1024 if low > 1024 else low


def require_objectives(
    prospects: Sequence[Prospect], wish: Wish, describe: Callable[[Plan], str]
) -> None:
    """Raise ConfigError where no plan could serve a single request as wished, or reach the floor.

    By bounds alone: what is refused here no simulation could have shown.
    """
    fitting = [one for one in prospects if one.at_best is not None]
    if not wish.slo.stated:
        return
    if not any(one.bound.met for one in fitting):
        raise ConfigError(
            "no plan meets the objectives for any request, were it alone: the least are "
            f"{' and '.join(_least(fitting, wish, describe))}; allow more time, or more with "
            "--max-gpus"
        )
    best = max(fitting, key=lambda one: wish.value(one.bound))
    if wish.floor is not None and wish.value(best.bound) < 1:
        rate, met = best.bound.good_rate, best.bound.met
        assert rate is not None
        assert met is not None
        raise ConfigError(
            f"no plan reaches --min-goodput {wish.floor}: {rate:.3g} requests/s and "
            f"{100 * met:.3g} % are the most there could be ({describe(best.plan)})"
        )


def require_reached(found: Found, wish: Wish, transformer: Transformer) -> None:
    """Raise ConfigError where no simulated plan serves anybody as wished, or reaches the floor."""
    if wish.objective is not Objective.GOODPUT:
        return
    best = found.best.figures
    assert best.good_rate is not None
    assert best.met is not None
    if not best.good_rate:
        ttft = min(trial.figures.ttft for trial in found.trials)
        tpot = min(trial.figures.tpot for trial in found.trials)
        raise ConfigError(
            f"no plan met the objectives for any request: p95 of TTFT is {1e3 * ttft:.3g} ms at "
            f"best and p95 of TPOT {1e3 * tpot:.3g} ms; allow more time, or more with --max-gpus"
        )
    if wish.floor is not None and wish.value(best) < 1:
        raise ConfigError(
            f"no plan reached --min-goodput {wish.floor}: {best.good_rate:.3g} requests/s and "
            f"{100 * best.met:.3g} % are the most ({found.best.plan.describe(transformer)}); allow "
            "more with --max-gpus"
        )


def _least(
    fitting: Sequence[Prospect], wish: Wish, describe: Callable[[Plan], str]
) -> Iterator[str]:
    for place, (name, slo) in enumerate((("TTFT", wish.slo.ttft), ("TPOT", wish.slo.tpot))):
        if slo is not None:
            best = min(fitting, key=lambda one: one.fastest[place])
            least = 1e3 * best.fastest[place]
            yield f"{name} {least:.3g} ms ({describe(best.plan)}; wished {1e3 * slo:g} ms)"
