"""Sequences that decode, all granted at once.

Most steps are like the last one: everybody has one token to compute, in rows that are mapped for
it.  Who is at the front of the turn and needs nothing else is granted together, for the price of
one look at memory; whoever needs more is left to the scheduler, in turn.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any

from ellm.core.load import StepLoad
from ellm.core.plan import SequenceStep, StepShape
from ellm.core.sequence import Sequence, SequenceStatus
from ellm.kv.manager import KvManager
from ellm.scheduling.draft import Draft


def decode_together(
    turn: deque[Sequence],
    draft: Draft,
    kv: KvManager[Any],
    activation_bytes: Callable[[StepShape], int],
) -> bool:
    """Take as many as can be from the front of `turn` into `draft`; whether that was anybody."""
    steps, longest = _steps(islice(turn, draft.left), kv)
    while steps:
        shape = draft.shape.with_decoding(len(steps), longest, kv.gathers(longest))
        if kv.room.make(_no_chunks, activation_bytes(shape)):
            draft.extend(steps, shape)
            for _ in steps:
                turn.popleft()
            return True
        del steps[len(steps) // 2 :]
    return False


def _steps(sequences: Iterable[Sequence], kv: KvManager[Any]) -> tuple[list[SequenceStep], int]:
    """A step for each, up to the first that needs more, and the tokens of the longest."""
    steps, longest = [], 0
    for sequence in sequences:
        tokens = sequence.tokens
        length = len(tokens)
        if sequence.status is not SequenceStatus.RUNNING:
            break
        # A prompt's last token may be one whose scores are wanted.
        if not sequence.computed == length - 1 >= sequence.num_prompt:
            break
        table = kv.go_on(sequence.seq_id, length)
        if table is None:
            break
        steps.append(SequenceStep(sequence.seq_id, tokens[-1:], length - 1, table, sequence.task))
        if length > longest:
            longest = length
    return steps, longest


def _no_chunks() -> int:
    return 0


def load_of(decoding: Iterable[Sequence]) -> StepLoad:
    """What a step costs that computes one more token for each."""
    return StepLoad.of((1, sequence.computed) for sequence in decoding)
