"""When the tokens of each request came, and how many requests got them as soon as was wished."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ellm.core.objectives import Objectives
from ellm.obs.spread import percentile

Figures = dict[str, float]


@dataclass(slots=True)
class Served:
    """One request of `output` tokens; `first` and `last` are when those came, in seconds."""

    arrival: float
    output: int
    first: float = 0.0
    last: float = 0.0

    def token(self, now: float) -> None:
        self.first, self.last = self.first or now, now

    @property
    def ttft(self) -> float:
        return self.first - self.arrival

    @property
    def tpot(self) -> float:
        """0 for a single token, which has none to break."""
        return (self.last - self.first) / (self.output - 1) if self.output > 1 else 0.0


def figures(served: Sequence[Served], rate: float, wished: Objectives) -> Figures:
    """Goodput is the share that met both objectives, times the rate at which all came."""
    assert wished.ttft is not None
    assert wished.tpot is not None
    count = len(served)
    ttfts, tpots = [s.ttft for s in served], [s.tpot for s in served if s.output > 1]
    early = sum(s.ttft <= wished.ttft for s in served) / count
    quick = sum(s.tpot <= wished.tpot for s in served) / count
    both = sum(s.ttft <= wished.ttft and s.tpot <= wished.tpot for s in served) / count
    seconds = max(s.last for s in served) - served[0].arrival
    return {
        "goodput": both * rate,
        "met": both,
        "met_ttft": early,
        "met_tpot": quick,
        "ttft_p50": percentile(ttfts, 0.5),
        "ttft_p99": percentile(ttfts, 0.99),
        "tpot_p50": percentile(tpots, 0.5),
        "tpot_p99": percentile(tpots, 0.99),
        "output_rate": sum(s.output for s in served) / seconds,
    }
