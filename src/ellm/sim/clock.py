"""Time that passes only when told to."""

from __future__ import annotations


class VirtualClock:
    """Seconds that `advance` adds up."""

    def __init__(self, start: float = 0.0) -> None:
        self._now = start

    def now(self) -> float:
        return self._now

    def advance(self, seconds: float) -> None:
        """Let `seconds` (not negative) pass."""
        assert seconds >= 0, seconds
        self._now += seconds
