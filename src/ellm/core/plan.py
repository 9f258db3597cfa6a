"""What the engine tells an executor to do in one step.

There is one `SequenceStep` for each token of each request: what is made so often is a NamedTuple,
which costs a third of a frozen dataclass.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from ellm.core.layers import KvTable
from ellm.core.load import StepLoad
from ellm.core.sampling import SamplingParams


def awaited(place: int) -> int:
    """What stands for the token that answers task `place` of the step before, not known yet.

    Numbers below 0; `awaited` of such a number is the place again.
    """
    return -1 - place


class SamplingTask(NamedTuple):
    """Choose the token that follows `tokens`, of which the first `num_prompt` were given.

    `tokens` is the sequence's own list: it has grown by the time of its next step.  `seed` is
    already resolved; together with the position it alone decides the random draw.  `end_tokens`
    may not be chosen before `min_tokens` are out.
    """

    params: SamplingParams
    tokens: Sequence[int]
    num_prompt: int
    seed: int
    end_tokens: Sequence[int] = ()

    @property
    def prompt(self) -> Sequence[int]:
        return self.tokens[: self.num_prompt]

    @property
    def output(self) -> Sequence[int]:
        """What was chosen so far."""
        return self.tokens[self.num_prompt :]

    @property
    def banned(self) -> Sequence[int]:
        """Ids that may not be chosen now."""
        early = len(self.tokens) - self.num_prompt < self.params.min_tokens
        return self.end_tokens if early else ()


class SequenceStep(NamedTuple):
    """Compute `tokens`, which stand at positions `start`, `start + 1`, …

    The last of them may be `awaited`, where the executor runs ahead.

    `targets` are the prompt tokens that follow, as many as are to be scored: row i of the logits
    scores `targets[i]`, with as many of its best alternatives as `target_logprobs` says.  `task`
    asks for a new token after the last one.
    """

    seq_id: int
    tokens: Sequence[int]
    start: int
    kv: KvTable
    task: SamplingTask | None = None
    targets: Sequence[int] = ()
    target_logprobs: int = 0

    @property
    def length(self) -> int:
        """Tokens of KV that exist after this step."""
        return self.start + len(self.tokens)


@dataclass(frozen=True, slots=True)
class StepShape:
    """What decides how many activation bytes a step needs.

    tokens         rows of the residual stream
    logit_rows     rows that reach the vocabulary at once
    longest_query  most tokens that one sequence computes in this step
    longest_kv     most tokens of KV that one sequence attends to
    gathers        whether some sequence's KV is not one contiguous run of rows
    """

    tokens: int = 0
    logit_rows: int = 0
    longest_query: int = 0
    longest_kv: int = 0
    gathers: bool = False

    def with_sequence(self, tokens: int, length: int, rows: int, gathers: bool) -> StepShape:
        """The shape with one more sequence in the step."""
        return StepShape(
            self.tokens + tokens,
            self.logit_rows + rows,
            max(self.longest_query, tokens),
            max(self.longest_kv, length),
            self.gathers or gathers,
        )

    def with_decoding(self, sequences: int, longest: int, gathers: bool) -> StepShape:
        """The shape with so many more that decode, `longest` the KV of the longest of them."""
        return StepShape(
            self.tokens + sequences,
            self.logit_rows + sequences,
            max(self.longest_query, 1),
            max(self.longest_kv, longest),
            self.gathers or gathers,
        )


@dataclass(frozen=True)
class StepPlan:
    """One step: every sequence's part, in batch order, and the shape they add up to."""

    steps: tuple[SequenceStep, ...]
    shape: StepShape

    @cached_property
    def load(self) -> StepLoad:
        """What the step costs in time."""
        return StepLoad.of((len(step.tokens), step.start) for step in self.steps)
