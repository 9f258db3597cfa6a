"""First come, first served."""

from __future__ import annotations

from collections.abc import Iterable

from ellm.core.load import StepLoad
from ellm.core.sequence import Sequence


class FcfsPolicy:
    """Arrival order within a priority."""

    skips = False

    def __init__(self, stall_tokens: int = 2048) -> None:
        self._stall_tokens = stall_tokens

    def rank(self, sequence: Sequence, now: float) -> tuple[float, ...]:
        return sequence.order

    def prefill_tokens(
        self,
        sequence: Sequence,
        load: StepLoad,
        decoding: Iterable[Sequence],
        now: float,
        most: int,
    ) -> int:
        return min(most, max(0, self._stall_tokens - load.tokens)) if load.sequences else most

    def admits(self, sequence: Sequence, kv_bytes: int, parked_bytes: int, now: float) -> bool:
        return True

    def must_wait_for(self, sequence: Sequence, now: float) -> bool:
        return True

    def token(self, sequence: Sequence, now: float) -> None:
        pass

    def stepped(self, load: StepLoad, seconds: float) -> None:
        pass
