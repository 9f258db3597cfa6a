"""What the engine tells an executor to do in one step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ellm.core.layers import KvTable
from ellm.core.load import StepLoad
from ellm.core.sampling import SamplingParams


@dataclass(frozen=True, slots=True)
class SamplingTask:
    """Choose the token that follows `prompt + output`.

    `seed` is already resolved; together with the position it alone decides the random draw.
    `banned` are ids that may not be chosen now (end tokens before `min_tokens`).
    """

    params: SamplingParams
    prompt: Sequence[int]
    output: Sequence[int]
    seed: int
    banned: Sequence[int] = ()


@dataclass(frozen=True, slots=True)
class SequenceStep:
    """Compute `tokens`, which stand at positions `start`, `start + 1`, …

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


@dataclass(frozen=True, slots=True)
class StepPlan:
    """One step: every sequence's part, in batch order, and the shape they add up to."""

    steps: tuple[SequenceStep, ...]
    shape: StepShape

    @property
    def load(self) -> StepLoad:
        """What the step costs in time."""
        load = StepLoad()
        for step in self.steps:
            load = load.with_sequence(len(step.tokens), step.length)
        return load
