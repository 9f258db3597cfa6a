"""How soon a caller wants its tokens."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ellm.core.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Objectives:
    """Longest acceptable times in seconds; None is no objective.

    `ttft` is the time to the first token, from arrival and with the wait in the queue.  `tpot` is
    the mean time between the tokens that follow.  Raises ConfigError.
    """

    ttft: float | None = None
    tpot: float | None = None

    def __post_init__(self) -> None:
        for name in ("ttft", "tpot"):
            value = getattr(self, name)
            if value is not None and not (0 < value < math.inf):
                raise ConfigError(
                    f"the {name.upper()} objective must be more than 0 seconds, not {value}: "
                    f"write for example 500ms, or leave it out"
                )

    @property
    def stated(self) -> bool:
        """Whether there is any."""
        return self.ttft is not None or self.tpot is not None

    def allow_ttft(self, seconds: float) -> bool:
        return self.ttft is None or seconds <= self.ttft

    def allow_tpot(self, seconds: float | None) -> bool:
        """None is an answer of a single token, which no time between tokens can be late for."""
        return self.tpot is None or seconds is None or seconds <= self.tpot

    def overridden(self, own: Objectives | None) -> Objectives:
        """What holds for a request whose own objectives are `own`; what it leaves out stays."""
        if own is None:
            return self
        return Objectives(
            ttft=self.ttft if own.ttft is None else own.ttft,
            tpot=self.tpot if own.tpot is None else own.tpot,
        )
