"""Collectives by name: every module of `collectives` is one."""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

from ellm.core.errors import ConfigError
from ellm.sim.fabrics import collectives
from ellm.sim.fabrics.collective import REGISTERED, Collective


def known_collectives() -> tuple[str, ...]:
    for module in iter_modules(collectives.__path__, f"{collectives.__name__}."):
        import_module(module.name)
    return tuple(sorted(REGISTERED))


def find_collective(name: str) -> Collective:
    """Raises ConfigError with those that are known."""
    if name not in REGISTERED and name not in known_collectives():
        known = ", ".join(sorted(REGISTERED))
        raise ConfigError(f"no collective is called {name!r}: known are {known}")
    return REGISTERED[name]
