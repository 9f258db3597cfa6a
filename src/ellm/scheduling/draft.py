"""A step being put together."""

from __future__ import annotations

from collections.abc import Sequence as SequenceOf

from ellm.core.layers import KvTable
from ellm.core.load import StepLoad
from ellm.core.plan import SequenceStep, StepPlan, StepShape
from ellm.core.sequence import Sequence


class Draft:
    """Sequences granted so far, and the shape they add up to.

    `left` is how many tokens the step may still take.  `load` counts what is expected to run
    beside what has been granted.
    """

    def __init__(self, token_budget: int, load: StepLoad) -> None:
        self.left = token_budget
        self.load = load
        self.shape = StepShape()
        self._steps: list[SequenceStep] = []
        self._members: set[int] = set()

    def __contains__(self, sequence: Sequence) -> bool:
        return sequence.seq_id in self._members

    def __len__(self) -> int:
        return len(self._steps)

    def shape_with(self, sequence: Sequence, count: int, gathers: bool) -> StepShape:
        """The step's shape if `sequence` computed `count` tokens in it."""
        rows = len(_targets(sequence, count)) + (count == sequence.uncomputed)
        return self.shape.with_sequence(count, sequence.computed + count, rows, gathers)

    def add(self, sequence: Sequence, count: int, table: KvTable, shape: StepShape) -> None:
        """Let `sequence` compute its next `count` tokens over the rows of `table`."""
        start = sequence.computed
        params = sequence.request.params
        self._steps.append(
            SequenceStep(
                seq_id=sequence.seq_id,
                tokens=sequence.tokens[start : start + count],
                start=start,
                kv=table,
                task=sequence.task if count == sequence.uncomputed else None,
                targets=_targets(sequence, count),
                target_logprobs=params.prompt_logprobs or 0,
            )
        )
        self._members.add(sequence.seq_id)
        self.shape = shape
        self.left -= count

    def extend(self, steps: SequenceOf[SequenceStep], shape: StepShape) -> None:
        """Let several go on by one token each."""
        self._steps += steps
        self._members.update(step.seq_id for step in steps)
        self.shape = shape
        self.left -= len(steps)

    def plan(self) -> StepPlan | None:
        """The finished plan; None if nothing can run."""
        return StepPlan(tuple(self._steps), self.shape) if self._steps else None


def _targets(sequence: Sequence, count: int) -> list[int]:
    """Prompt tokens that follow the next `count` computed ones, when their scores are wanted."""
    prompt = sequence.request.prompt
    stop = min(sequence.computed + count, len(prompt) - 1)
    if not sequence.wants_scores or stop <= sequence.prompt_scored:
        return []
    return list(prompt[sequence.computed + 1 : stop + 1])
