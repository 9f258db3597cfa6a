"""What an executor hands back after one step.

One result for each token: see core/plan.py on why it is a NamedTuple.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """Log-probability and rank (1 = likeliest) of one token, and the likeliest few."""

    token: int
    logprob: float
    rank: int
    top: tuple[tuple[int, float], ...] = ()


class SequenceResult(NamedTuple):
    """`token` answers the step's task; `scores` answers its targets, one for each."""

    seq_id: int
    token: int | None = None
    logprobs: TokenLogprobs | None = None
    scores: tuple[TokenLogprobs, ...] = ()


@dataclass(frozen=True, slots=True)
class StepResult:
    """One result per sequence of the plan, in the plan's order."""

    sequences: tuple[SequenceResult, ...]
