"""How many requests were served as soon as was wished."""

from __future__ import annotations

import math
from collections import Counter

from ellm.core.objectives import Objectives
from ellm.core.sequence import FinishReason, Sequence

WINDOW = 60


class Goodput:
    """Judges every sequence that ends, by the engine's `objectives` or its request's own.

    Time to first token counts from arrival; time per output token is the mean after the first.
    `outcomes` counts the judged since start: met, ttft, tpot or both (which objective was missed).
    A choice of a request counts as one; a request without objectives is not judged.  An aborted one
    is judged only if its first token was late already: otherwise nobody knows.

    One thread writes and any thread may read.  `started` is when counting begins.
    """

    def __init__(self, objectives: Objectives, started: float) -> None:
        self.outcomes: Counter[str] = Counter()
        self._objectives = objectives
        self._started = started
        # One bucket a second, used again after `WINDOW` of them: which second, and how many met.
        self._seconds = [-math.inf] * WINDOW
        self._counts = [0] * WINDOW

    def finished(self, sequence: Sequence, now: float) -> None:
        """`sequence` ends at `now` and has its finish reason."""
        outcome = self._judge(sequence, now)
        if outcome is None:
            return
        self.outcomes[outcome] += 1
        if outcome == "met":
            second = math.floor(now)
            bucket = second % WINDOW
            if self._seconds[bucket] != second:
                self._counts[bucket] = 0
                self._seconds[bucket] = second
            self._counts[bucket] += 1

    def rate(self, now: float) -> float:
        """Requests a second that met their objectives, over the last minute or since the start."""
        oldest = math.floor(now) - WINDOW + 1
        pairs = zip(self._seconds, self._counts, strict=True)
        met = sum(count for second, count in pairs if second >= oldest)
        return met / max(1.0, now - max(oldest, self._started))

    def _judge(self, sequence: Sequence, now: float) -> str | None:
        wished = self._objectives.overridden(sequence.request.objectives)
        if not wished.stated:
            return None
        first = now if sequence.first_token is None else sequence.first_token
        late = wished.ttft is not None and first - sequence.request.arrival > wished.ttft
        if sequence.finish_reason is FinishReason.ABORT:
            return "ttft" if late and sequence.first_token is None else None
        slow = False
        if wished.tpot is not None and sequence.num_output > 1:
            assert sequence.last_token is not None, sequence.seq_id
            slow = sequence.last_token - first > wished.tpot * (sequence.num_output - 1)
        return {
            (False, False): "met",
            (True, False): "ttft",
            (False, True): "tpot",
            (True, True): "both",
        }[late, slow]
