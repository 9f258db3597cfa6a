"""What delay those who decode can bear: LayerKV's T_allow (arXiv 2410.00428, equations 1 and 2)."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from ellm.core.load import StepLoad

# Who cannot save enough even in so many times the tokens expected of it has lost its objective.
HOPE = 2


@dataclass(frozen=True, slots=True)
class Savings:
    """One decoding sequence with an objective of `tpot` seconds a token.

    It has `saved` seconds against the objective since its first token (negative: it is behind),
    is expected to make `future` tokens more, and may make `left`.
    """

    tpot: float
    saved: float
    future: float
    left: int

    def allowed_delay(self, pace: float) -> float:
        """Seconds by which it may be delayed if its tokens then come every `pace` seconds.

            tpot · (N past + N future) - (T past + T future)

        in tokens and times after the first token.  Infinite if the objective is lost for good.
        """
        gain = self.tpot - pace
        if self.saved + max(gain, 0.0) * min(self.left, HOPE * self.future) < 0:
            return math.inf
        return self.saved + gain * self.future


@dataclass(frozen=True, slots=True)
class Decoding:
    """All who decode at one moment: the load of their next tokens, and their savings."""

    now: float
    load: StepLoad
    savings: tuple[Savings, ...]

    @classmethod
    def of(cls, lengths: Iterable[int], savings: Iterable[Savings], now: float) -> Decoding:
        """`lengths` of KV after the step, for all; `savings` of those with an objective."""
        kv = list(lengths)
        load = StepLoad(len(kv), sum(kv), sum(kv), len(kv))
        return cls(now, load, tuple(savings))

    def allowed_delay(self, pace: float) -> float:
        """The least that any of them can bear; infinite if nobody has an objective to lose."""
        return min((each.allowed_delay(pace) for each in self.savings), default=math.inf)
