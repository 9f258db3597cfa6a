"""How much of the tier below newcomers may fill: eLLM's logical buffer (arXiv 2506.15155)."""

from __future__ import annotations

from collections import deque

WINDOW = 5
BREACHES = 3
FACTOR = 2


class LogicalBuffer:
    """A size between `smallest` and `physical` bytes that follows the objectives.

        smallest ◄── tokens too slow: halved ── size ── first tokens late: doubled ──► physical

    It moves when an objective was breached in three of the last five steps that could have
    breached it.  Both windows begin anew then, since they tell of the old size.  Slow tokens are
    seen to first: a smaller buffer lets fewer prompts start, and evicts nothing.
    """

    def __init__(self, physical: int, smallest: int) -> None:
        assert 0 <= smallest <= physical, (smallest, physical)
        self.size = physical
        self._physical = physical
        self._smallest = smallest
        self._ttft: deque[bool] = deque(maxlen=WINDOW)
        self._tpot: deque[bool] = deque(maxlen=WINDOW)

    def push(self, ttft_breach: bool | None, tpot_breach: bool | None) -> None:
        """What the last step did to each objective; None if it had no token to judge by."""
        if ttft_breach is not None:
            self._ttft.append(ttft_breach)
        if tpot_breach is not None:
            self._tpot.append(tpot_breach)
        if sum(self._tpot) >= BREACHES:
            self._move(max(self._smallest, self.size // FACTOR))
        elif sum(self._ttft) >= BREACHES:
            self._move(min(self._physical, self.size * FACTOR))

    def _move(self, size: int) -> None:
        self.size = size
        self._ttft.clear()
        self._tpot.clear()
