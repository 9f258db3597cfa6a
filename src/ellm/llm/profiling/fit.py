"""Measured steps as coefficients, and what it takes beside them to begin a request."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ellm.core.load import StepLoad
from ellm.llm.profiling.steps import Measured
from ellm.scheduling.coefficients import Coefficients
from ellm.scheduling.cost_fit import Observation, fit

# How often the search for the best `start` narrows down, and how many places it tries each time.
_ROUNDS, _PLACES = 3, 6


@dataclass(frozen=True, slots=True)
class StepFit:
    """A step takes `coefficients` of its load, and `start` for each sequence that is new in it.

    Admitting a sequence and mapping its first memory is nothing that a load tells of.
    """

    coefficients: Coefficients
    start: float

    def seconds(self, load: StepLoad, new: int = 0) -> float:
        return self.coefficients.seconds(load) + self.start * new

    def error(self, measured: Measured) -> float:
        """By how much it is off: 0.1 where it says 10 % more than was measured."""
        return self.seconds(measured.load, measured.point.prompts) / measured.lasts - 1

    @classmethod
    def of(cls, measured: Sequence[Measured]) -> StepFit:
        """The best on average, of at least one point."""
        each = [m.lasts / m.point.prompts for m in measured if m.point.prompts]
        most = 0.9 * min(each, default=0.0)  # some time is left to the rest of every step
        low, width = 0.0, most
        best = cls._with(measured, low)
        for _ in range(_ROUNDS if most else 0):
            places = [min(low + width * i / _PLACES, most) for i in range(_PLACES + 1)]
            tried = [cls._with(measured, place) for place in places]
            best = min((best, *tried), key=lambda one: one._mean_error(measured))
            low = max(0.0, best.start - width / _PLACES)
            width *= 2 / _PLACES
        return best

    @classmethod
    def _with(cls, measured: Sequence[Measured], start: float) -> StepFit:
        return cls(fit([_without(each, start) for each in measured]), start)

    def _mean_error(self, measured: Sequence[Measured]) -> float:
        return sum(abs(self.error(each)) for each in measured) / len(measured)


def _without(measured: Measured, start: float) -> Observation:
    return measured.load, measured.lasts - start * measured.point.prompts
