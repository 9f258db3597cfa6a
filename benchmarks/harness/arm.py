"""One way of running the engine, by name: what it changes in the arguments all arms share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Arm:
    """`changes` are arguments of `ellm.llm.args.EngineArgs`, as JSON can carry them."""

    name: str
    changes: Mapping[str, Any] = field(default_factory=dict)

    def arguments(self, shared: Mapping[str, Any]) -> dict[str, Any]:
        """What `EngineArgs(**…)` takes."""
        return {**shared, **self.changes}
