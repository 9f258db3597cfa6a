"""First come, first served within a priority."""

from __future__ import annotations

import math
from collections.abc import Collection
from collections.abc import Sequence as SequenceOf

from ellm.core.load import StepLoad
from ellm.core.sequence import Sequence


class FcfsPolicy:
    """Arrival order; nobody passes anybody.

    A step takes one whole prompt while nobody decodes.  Otherwise it takes no more than
    `stall_tokens` tokens in all, so that neither those who decode nor the prompt in front are kept
    waiting for long: a step of several long prompts ends for all of them when the last is computed.
    """

    skips = False

    def __init__(self, stall_tokens: int = 2048) -> None:
        self._stall_tokens = stall_tokens

    def rank(self, sequence: Sequence, now: float) -> tuple[float, ...]:
        return (sequence.request.priority, 0, sequence.seq_id)

    def prefill_tokens(
        self,
        sequence: Sequence,
        load: StepLoad,
        decoding: Collection[Sequence],
        now: float,
        most: int,
    ) -> int:
        if not load.tokens:
            return most
        return min(most, max(0, self._stall_tokens - load.tokens))

    def latest_step(self, sequences: Collection[Sequence], now: float) -> float:
        return math.inf

    def admits(self, sequence: Sequence, kv_bytes: int, parked_bytes: int, now: float) -> bool:
        return True

    def must_wait_for(self, sequence: Sequence, now: float) -> bool:
        return True

    def token(self, sequence: Sequence, now: float) -> None:
        pass

    def stepped(self, load: StepLoad, seconds: float) -> None:
        pass

    def yielded(self, sequence: Sequence) -> None:
        pass

    def resumed(self, sequence: Sequence) -> None:
        pass

    def victim(self, running: SequenceOf[Sequence]) -> Sequence:
        return running[-1]

    def finished(self, sequence: Sequence) -> None:
        pass
