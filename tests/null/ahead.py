"""An executor that runs ahead, as a GPU does: what a step answers is told when it is asked for."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from ellm.core.executor import Executor, Ferry, Flight
from ellm.core.plan import SequenceStep, StepPlan, StepShape, awaited
from ellm.core.result import StepResult


class Told:
    """A flight of `Ahead`, which lands after those launched before it."""

    def __init__(self, line: deque[Told], answers: StepResult) -> None:
        self._line = line
        self._answers = answers
        line.append(self)

    def result(self) -> StepResult:
        assert self._line.popleft() is self, "flights land in the order of their launches, once"
        return self._answers


class Ahead:
    """Has `inner` compute every step at its launch, and keeps the answers back.

    Tokens that are awaited are put into plans and tasks, as a device would.
    """

    ahead = True

    def __init__(self, inner: Executor) -> None:
        self._inner = inner
        self._answers: list[int] = []
        self._line: deque[Told] = deque()
        self.followed = 0

    @property
    def under_way(self) -> int:
        return len(self._line)

    def activation_bytes(self, shape: StepShape) -> int:
        return self._inner.activation_bytes(shape)

    def launch(self, plan: StepPlan, ferry: Ferry | None = None) -> Flight:
        assert len(self._line) < 2, "two steps are under way already"
        known = StepPlan(tuple(self._known(step) for step in plan.steps), plan.shape)
        answers = self._inner.launch(known, ferry).result()
        self._answers = [answer.token for answer in answers.sequences if answer.token is not None]
        return Told(self._line, answers)

    def tell(self, tokens: Sequence[int]) -> list[int]:
        """`tokens`, and for those that are awaited what the step before has answered."""
        return [token if token >= 0 else self._answers[awaited(token)] for token in tokens]

    def _known(self, step: SequenceStep) -> SequenceStep:
        if step.tokens[-1] >= 0:
            return step
        self.followed += 1
        task = step.task
        if task is not None:
            assert not task.params.reads_output, step
            task = task._replace(tokens=self.tell(task.tokens))
        return step._replace(tokens=self.tell(step.tokens), task=task)
