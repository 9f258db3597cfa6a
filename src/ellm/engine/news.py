"""What is told of a sequence after a step."""

from __future__ import annotations

from ellm.core.output import SequenceOutput
from ellm.core.result import SequenceResult, TokenLogprobs
from ellm.core.sequence import Sequence


def news_of(
    sequence: Sequence,
    answer: SequenceResult | None = None,
    scores: tuple[TokenLogprobs, ...] = (),
) -> SequenceOutput:
    """What just happened to `sequence`, its end included."""
    return SequenceOutput(
        sequence.request.request_id,
        sequence.index,
        answer.token if answer else None,
        answer.logprobs if answer else None,
        scores,
        sequence.finish_reason,
        sequence.cached,
    )


def fresh_scores(
    sequence: Sequence, start: int, scores: tuple[TokenLogprobs, ...]
) -> tuple[TokenLogprobs, ...]:
    """Those that were not reported before a preemption, after which they are computed again."""
    fresh = scores[max(0, sequence.prompt_scored - start) :]
    sequence.prompt_scored += len(fresh)
    return fresh
