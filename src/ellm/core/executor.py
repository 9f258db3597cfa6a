"""The seam between deciding and doing."""

from __future__ import annotations

from typing import Protocol

from ellm.core.plan import StepPlan, StepShape
from ellm.core.result import StepResult


class Ferry(Protocol):
    """Sees to it that a layer's KV is mapped while it is computed; called in layer order."""

    def enter(self, layer: int) -> None:
        """`layer` is about to write and read its KV."""
        ...

    def leave(self, layer: int) -> None:
        """`layer` has no use for its KV any more in this step."""
        ...


class Executor(Protocol):
    """Something that can run a step: a device, or a cost model in virtual time."""

    def activation_bytes(self, shape: StepShape) -> int:
        """Exactly what `execute` will take from the workspace for such a step.

        Never smaller for a shape that is larger in any respect.  Cheap: called many times a step.
        """
        ...

    def execute(self, plan: StepPlan, ferry: Ferry | None = None) -> StepResult:
        """Run one step.  The workspace already holds `activation_bytes(plan.shape)`.

        A `ferry` is told of every layer; without one all rows are mapped.
        """
        ...
