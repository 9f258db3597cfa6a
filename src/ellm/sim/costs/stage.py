"""The time of one pipeline stage, given what each of its ranks computes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from ellm.core.load import StepLoad
from ellm.core.units import ceil_div
from ellm.scheduling.coefficients import Coefficients


@dataclass(frozen=True, slots=True)
class Window:
    """Attention that sees `tokens` tokens: seconds for each pair and each cached token."""

    tokens: int
    pair: float
    cached: float

    def seconds(self, load: StepLoad) -> float:
        """Of sequences that are all as long as their mean, which is an upper bound."""
        pairs = min(load.attention, load.tokens * self.tokens)
        cached = min(load.kv_tokens, load.sequences * (self.tokens + 1))
        return self.pair * pairs + self.cached * cached


@dataclass(frozen=True, slots=True)
class StageTime:
    """`parts` are the costs of cells by how many copies of them there are, `ranks` among them.

    A rank's load goes to the copies it belongs to: a copy that serves several ranks has their
    tokens together, copies that share a rank have an equal part each.  The slowest copy counts,
    since the next cell begins with a collective.  A step in which a rank computes a prompt takes
    at least `launched` (see `Overhead.launch`), None for nothing.
    """

    ranks: int
    parts: Mapping[int, Coefficients]
    windows: tuple[Window, ...] = ()
    launched: Coefficients | None = None
    _sole: Coefficients | None = field(default=None, repr=False)

    @classmethod
    def of(
        cls,
        ranks: int,
        parts: Mapping[int, Coefficients],
        windows: Sequence[Window],
        launched: Coefficients | None = None,
    ) -> StageTime:
        # Windows with the same reach are one.
        reach: dict[int, Window] = {}
        for window in windows:
            old = reach.get(window.tokens, Window(window.tokens, 0.0, 0.0))
            pair, cached = old.pair + window.pair, old.cached + window.cached
            reach[window.tokens] = Window(window.tokens, pair, cached)
        sole = parts[1] if ranks == 1 and set(parts) == {1} and not reach else None
        return cls(ranks, MappingProxyType(dict(parts)), tuple(reach.values()), launched, sole)

    def seconds(self, loads: Sequence[StepLoad]) -> float:
        """Of a step in which rank i computes `loads[i]`, an empty one if it has nothing."""
        seconds = self._sum(loads) if self._sole is None else self._sole.seconds(loads[0])
        if self.launched is None or all(load.tokens <= load.sequences for load in loads):
            return seconds
        return max(seconds, *(self.launched.seconds(load) for load in loads))

    def _sum(self, loads: Sequence[StepLoad]) -> float:
        total = 0.0
        for copies, cost in self.parts.items():
            total += max(cost.seconds(load) for load in self._spread(loads, copies))
        for window in self.windows:
            total += max(window.seconds(load) for load in loads)
        return total

    def _spread(self, loads: Sequence[StepLoad], copies: int) -> list[StepLoad]:
        if copies == self.ranks:
            return list(loads)
        if copies > self.ranks:
            more = copies // self.ranks
            return [load._replace(tokens=ceil_div(load.tokens, more)) for load in loads]
        together = self.ranks // copies
        return [
            StepLoad(*map(sum, zip(*loads[first : first + together], strict=True)))
            for first in range(0, self.ranks, together)
        ]

    def scaled(self, factor: float) -> StageTime:
        """The same stage, `factor` times as slow."""
        parts = {copies: cost.times(factor) for copies, cost in self.parts.items()}
        windows = [replace(w, pair=w.pair * factor, cached=w.cached * factor) for w in self.windows]
        launched = None if self.launched is None else self.launched.times(factor)
        return StageTime.of(self.ranks, parts, windows, launched)
