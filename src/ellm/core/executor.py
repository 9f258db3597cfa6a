"""The seam between deciding and doing."""

from __future__ import annotations

from typing import Protocol

from ellm.core.plan import StepPlan, StepShape
from ellm.core.result import StepResult


class Executor(Protocol):
    """Something that can run a step: a device, or a cost model in virtual time."""

    def activation_bytes(self, shape: StepShape) -> int:
        """Exactly what `execute` will take from the workspace for such a step.

        Never smaller for a shape that is larger in any respect.  Cheap: called many times a step.
        """
        ...

    def execute(self, plan: StepPlan) -> StepResult:
        """Run one step.  The workspace already holds `activation_bytes(plan.shape)`."""
        ...
