"""What became of one request."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Served:
    """Times in seconds since the simulation began; None for what has not happened.

    `longest` is the longest time between two tokens.  `ended` is when the client had the whole
    answer.  `refused` says why it was not served.
    """

    arrival: float
    prompt: int
    model: int = 0
    output: int = 0
    first: float | None = None
    last: float | None = None
    longest: float = 0.0
    cached: int = 0
    ended: float | None = None
    refused: str | None = None

    def token(self, now: float) -> None:
        if self.last is None:
            self.first = now
        elif now - self.last > self.longest:
            self.longest = now - self.last
        self.last = now
        self.output += 1

    @property
    def finished(self) -> bool:
        return self.ended is not None

    @property
    def ttft(self) -> float:
        assert self.first is not None
        return self.first - self.arrival

    @property
    def latency(self) -> float:
        assert self.ended is not None
        return self.ended - self.arrival

    @property
    def tpot(self) -> float | None:
        """Seconds between tokens on average; None for a single token."""
        if self.output < 2:
            return None
        assert self.first is not None
        assert self.last is not None
        return (self.last - self.first) / (self.output - 1)
