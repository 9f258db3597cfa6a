"""Tells the log what changed between two looks at a fleet: who sleeps, who woke, what is full."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ellm.core.errors import ModelNotFound
from ellm.core.units import format_bytes
from ellm.obs.models import ModelInfo, ModelState
from ellm.server.backend import Fleet

# How often to look, in seconds: near enough to when it was, and nearly free.
PERIOD = 1.0
_log = logging.getLogger("ellm.server.watch")


@dataclass(frozen=True, slots=True)
class Look:
    """A fleet at one moment; `full` names the models whose tier has had no room for KV."""

    models: Mapping[str, ModelInfo]
    budget: int
    full: frozenset[str]

    @classmethod
    def at(cls, fleet: Fleet) -> Look:
        models = {info.name: info for info in fleet.models}
        memory = fleet.memory()
        full = frozenset(name for name, info in models.items() if _is_full(fleet, info))
        return cls(models, memory.total * memory.chunk_bytes, full)


class Watch:
    """Compares each look with the one before; a full tier is told once a model."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._last = Look.at(fleet)
        self._told: frozenset[str] = frozenset()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(PERIOD)
            self.look()

    def look(self) -> None:
        before, now = self._last, Look.at(self._fleet)
        self._last = now
        for line in changes(before, now):
            _log.info(line)
        for name in sorted(now.full - self._told):
            _log.warning(
                "%s: the tier below the memory is full, and KV that finds no room is computed "
                "again: raise --kv-offloading-size",
                name,
            )
        self._told |= now.full


def changes(before: Look, now: Look) -> Iterator[str]:
    """One line for each thing an operator wants to know of."""
    if before.budget != now.budget:
        was, size = format_bytes(before.budget), format_bytes(now.budget)
        yield f"the memory budget changed from {was} to {size}"
    for name in now.models.keys() - before.models.keys():
        yield f"{name} is {now.models[name].state.value}"
    for name in before.models.keys() - now.models.keys():
        yield f"{name} was unloaded"
    for name in before.models.keys() & now.models.keys():
        yield from _changes(before.models[name], now.models[name])


def _changes(before: ModelInfo, now: ModelInfo) -> Iterator[str]:
    if now.wake_seconds is not None and now.wake_seconds != before.wake_seconds:
        yield f"{now.name} woke in {1e3 * now.wake_seconds:.0f} ms"
    elif before.state is ModelState.LOADING and now.state is ModelState.AWAKE:
        yield f"{now.name} is awake"
    if now.state is ModelState.ASLEEP and before.state is not ModelState.ASLEEP:
        given = sum(before.held.values()) - sum(now.held.values())
        yield f"{now.name} fell asleep and gave back {format_bytes(max(0, given))}"
    if now.state is ModelState.LEAVING and before.state is not ModelState.LEAVING:
        yield f"{now.name} takes no more requests and leaves when those it has have ended"


def _is_full(fleet: Fleet, info: ModelInfo) -> bool:
    if info.state is ModelState.LOADING:
        return False
    try:
        now = fleet.backend(info.name).snapshot()
    except ModelNotFound:  # it has left meanwhile
        return False
    return now.tier is not None and now.tier.stats.refusals > 0
