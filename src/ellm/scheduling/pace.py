"""What delay those who decode can bear: LayerKV's T_allow (arXiv 2410.00428, equations 1 and 2)."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from ellm.core.load import StepLoad

# Predictions are not exact, so the mean is kept a little below the objective.
AIM = 0.95


@dataclass(frozen=True, slots=True)
class Progress:
    """How far one decoding sequence is, with an objective of `tpot` seconds a token.

    `past` tokens came in `elapsed` seconds after the first one.  It will make `sure` tokens more,
    and perhaps as many as `likely`.
    """

    tpot: float
    past: int
    elapsed: float
    sure: float
    likely: float

    @property
    def is_behind(self) -> bool:
        """Whether its tokens so far took longer than they may."""
        return self.elapsed > self.tpot * self.past

    def is_lost(self, pace: float) -> bool:
        """Whether even the likely tokens, one every `pace` seconds, would not make up for what it
        is behind."""
        behind = self.elapsed - self.tpot * self.past
        return behind > max(self.tpot - pace, 0.0) * self.likely

    def allowed_delay(self, pace: float) -> float:
        """Seconds by which it may be delayed if its tokens then come every `pace` seconds.

            tpot · (N past + N future) - (T past + T future)

        with the future tokens that are sure: what a mean promises cannot be spent.  Infinite if
        the objective is lost.
        """
        if self.is_lost(pace):
            return math.inf
        return AIM * self.tpot * (self.past + self.sure) - (self.elapsed + pace * self.sure)


@dataclass(frozen=True, slots=True)
class Decoding:
    """All who decode at one moment: the load of their next tokens, and their progress."""

    now: float
    load: StepLoad
    progress: tuple[Progress, ...]

    @classmethod
    def of(cls, lengths: Iterable[int], progress: Iterable[Progress], now: float) -> Decoding:
        """`lengths` of KV after the step, for all; `progress` of those with an objective."""
        kv = list(lengths)
        load = StepLoad(len(kv), sum(kv), sum(kv), len(kv))
        return cls(now, load, tuple(progress))

    def allowed_delay(self, pace: float) -> float:
        """The least that any of them can bear; infinite if nobody has an objective to lose."""
        return min((each.allowed_delay(pace) for each in self.progress), default=math.inf)
