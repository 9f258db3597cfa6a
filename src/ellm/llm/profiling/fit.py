"""Measured steps as coefficients, and what it takes beside them to begin a request."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ellm.core.load import StepLoad
from ellm.llm.profiling.steps import Measured
from ellm.scheduling.coefficients import Coefficients
from ellm.scheduling.cost_fit import Observation, fit
from ellm.scheduling.nnls import nonnegative

# How often the search for the best `start` narrows down, and how many places it tries each time.
_ROUNDS, _PLACES = 3, 6
# How often steps are told anew into those that their launches hold up and the others.
_SORTINGS = 6
# What explains launches must leave so small a share of the error, and this many steps to show it.
_WORTH, _FEWEST = 0.8, 4
# A step so little above the floor, as a share, may still be one that launches hold up.
_LEVEL = 0.25


@dataclass(frozen=True, slots=True)
class StepFit:
    """A step takes `coefficients` of its load, and `start` for each sequence that is new in it.

    Admitting a sequence and mapping its first memory is nothing that a load tells of.  Where steps
    that decode are captured and others are not, one with a prompt takes at least `launched` of its
    load (StageTime): None where nothing shows it.
    """

    coefficients: Coefficients
    start: float
    launched: Coefficients | None = None

    def seconds(self, load: StepLoad, new: int = 0) -> float:
        seconds = self.coefficients.seconds(load)
        if self.launched is not None and load.tokens > load.sequences:
            seconds = max(seconds, self.launched.seconds(load))
        return seconds + self.start * new

    def error(self, measured: Measured) -> float:
        """By how much it is off: 0.1 where it says 10 % more than was measured."""
        return self.seconds(measured.load, measured.point.prompts) / measured.lasts - 1

    @classmethod
    def of(cls, measured: Sequence[Measured]) -> StepFit:
        """The best on average, of at least one point."""
        plain, launching = cls.plain(measured), cls._launching(measured)
        if launching is None:
            return plain
        worth = launching._mean_error(measured) < _WORTH * plain._mean_error(measured)
        return launching if worth else plain

    @classmethod
    def plain(cls, measured: Sequence[Measured]) -> StepFit:
        """Without launches, as schedulers know steps."""
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

    @classmethod
    def _launching(cls, measured: Sequence[Measured]) -> StepFit | None:
        """With a floor under steps that have a prompt; None where too few steps would show it.

        Whoever is no slower than the floor belongs to it, and the rest to the coefficients: told
        apart by what both were before, from the quickest quarter on.
        """
        prompts = sorted((m for m in measured if m.point.prompts), key=lambda m: m.lasts)
        decoding = [m for m in measured if not m.point.prompts]
        if min(len(decoding), len(prompts)) < _FEWEST:
            return None
        held = prompts[: max(_FEWEST, len(prompts) // 4)]
        for _ in range(_SORTINGS):
            floor = _floor(held)
            slower = [m for m in prompts if m.lasts > (1 + _LEVEL) * floor.seconds(m.load)]
            found = cls(fit([(m.load, m.lasts) for m in (*decoding, *slower)]), 0.0, floor)
            before, computed = held, found.coefficients
            held = [m for m in prompts if floor.seconds(m.load) >= computed.seconds(m.load)]
            if len(held) < _FEWEST:
                return None
            if held == before:
                break
        return found

    def _mean_error(self, measured: Sequence[Measured]) -> float:
        return sum(abs(self.error(each)) for each in measured) / len(measured)


def _floor(held: Sequence[Measured]) -> Coefficients:
    """So much a step and a sequence, for which relative errors are least."""
    rows, wanted = [[0.0, 0.0], [0.0, 0.0]], [0.0, 0.0]
    for each in held:
        own = (1 / each.lasts, each.load.sequences / each.lasts)
        for i in range(2):
            wanted[i] += own[i]
            for j in range(2):
                rows[i][j] += own[i] * own[j]
    step, sequence = nonnegative(rows, wanted, [1e-3, 1e-4])
    return Coefficients.even(step=step, sequence=sequence)


def _without(measured: Measured, start: float) -> Observation:
    return measured.load, measured.lasts - start * measured.point.prompts
