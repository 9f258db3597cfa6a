"""Whether objectives can be met at all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ellm.core.errors import ConfigError
from ellm.core.objectives import Objectives
from ellm.planner.bounds import AloneFloor, distinct
from ellm.planner.demand import Demand
from ellm.sim.deployment import Deployment
from ellm.sim.workload.item import Item


def require_possible(deployment: Deployment, items: Sequence[Item], wished: Objectives) -> None:
    """Raise ConfigError where no request could be served as wished, were it alone."""
    if not wished.stated:
        return
    limits, floor = deployment.limits, AloneFloor(deployment, distinct(deployment.stages))
    asks = Demand.of(items, limits.max_model_len, deployment.memory.prefix_caching).asks
    ttfts, tpots = [floor.ttft(ask) for ask in asks], [floor.tpot(ask) for ask in asks]
    met = any(
        wished.allow_ttft(ttft) and wished.allow_tpot(tpot)
        for ttft, tpot in zip(ttfts, tpots, strict=True)
    )
    if asks and not met:
        paces = [tpot for tpot in tpots if tpot is not None]
        least = " and ".join(_least(wished, min(ttfts), min(paces, default=0.0)))
        raise ConfigError(
            f"no request can meet the objectives on {deployment.device.name}, were it alone: "
            f"{least}; allow more time, or take more devices"
        )


def _least(wished: Objectives, ttft: float, tpot: float) -> Iterator[str]:
    for name, slo, least in (("TTFT", wished.ttft, ttft), ("TPOT", wished.tpot, tpot)):
        if slo is not None:
            yield f"{name} is {1e3 * least:.3g} ms at the least, and {1e3 * slo:g} ms are wished"
