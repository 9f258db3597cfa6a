"""The seam between deciding and doing."""

from __future__ import annotations

from dataclasses import dataclass
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


class Flight(Protocol):
    """A step that was launched."""

    def result(self) -> StepResult:
        """What it answers; waits until that is known.  Asked for once."""
        ...


@dataclass(frozen=True, slots=True)
class Landed:
    """A flight that had ended when `launch` returned."""

    answers: StepResult

    def result(self) -> StepResult:
        return self.answers


class Executor(Protocol):
    """Something that can run a step: a device, or a cost model in virtual time."""

    @property
    def ahead(self) -> bool:
        """Whether a step goes on after `launch` has returned.

        Then the next may be launched before it has landed, and no more than that one: flights land
        in the order of their launches.  Its plan may name tokens that nobody knows yet, see
        `core.plan.awaited`.
        """
        ...

    def activation_bytes(self, shape: StepShape) -> int:
        """Exactly what `launch` will take from the workspace for such a step.

        Never smaller for a shape that is larger in any respect.  Cheap: called many times a step.
        """
        ...

    def launch(self, plan: StepPlan, ferry: Ferry | None = None) -> Flight:
        """Begin one step.  The workspace already holds `activation_bytes(plan.shape)`.

        Steps are computed in the order of their launches.  A `ferry` is told of every layer before
        this returns; without one all rows are mapped.
        """
        ...
