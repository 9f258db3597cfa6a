"""Step times fitted to all measurements of a profile at once, and how well they fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from statistics import median

from ellm.core.load import StepLoad
from ellm.scheduling.coefficients import Coefficients
from ellm.scheduling.cost import PRIOR, USUAL_ERRORS
from ellm.scheduling.equations import Equations

Observation = tuple[StepLoad, float]

# Trust in each measurement depends on the fit, and the fit on it; so often they are made anew.
ROUNDS = 12
# Enough to keep what measurements do not tell apart as it is in the prior; not felt elsewhere.
INERTIA = 1e-6
# The usual error before anything was fitted, and the least that it is afterwards.
FIRST_ERROR = 0.1
LEAST_ERROR = 1e-3


def fit(observations: Sequence[Observation]) -> Coefficients:
    """The coefficients for which relative errors are least, a few large ones counting less.

    `observations` are loads and seconds, at least one, all above zero.  Errors beyond three times
    the median one count by their size and not by its square (Huber, 1964), as in `StepCost`, so
    that a hiccup moves little.  The curve of tokens continues beyond the largest step that was
    measured as it rose before, and is nearly a line between sizes of which none was.
    """
    assert observations, "nothing was measured"
    times = [seconds for _, seconds in observations]
    assert min(times) > 0, min(times)
    start = PRIOR.times(median(seconds / PRIOR.seconds(load) for load, seconds in observations))
    found, scales, trusts, usual = start, times, [1.0] * len(times), FIRST_ERROR
    for _ in range(ROUNDS):
        equations = Equations()
        for (load, seconds), scale, trust in zip(observations, scales, trusts, strict=True):
            equations.add(load, seconds, scale, trust)
        found = equations.solved(found, start.slopes, equations.explained(), INERTIA, usual)
        # Relative to what is expected: relative to what was measured, slow steps would count less.
        scales = [found.seconds(load) for load, _ in observations]
        errors = [abs(seconds / scale - 1) for seconds, scale in zip(times, scales, strict=True)]
        usual = max(median(errors), LEAST_ERROR)
        limit = USUAL_ERRORS * usual
        trusts = [min(1.0, limit / max(error, limit)) for error in errors]
    return found


class StepKind(Enum):
    """What a step is made of, as far as its load tells."""

    DECODE = "decode"
    PROMPT = "prompt"
    MIXED = "mixed"

    @classmethod
    def of(cls, load: StepLoad) -> StepKind:
        """MIXED is all but one token a sequence, one prompt, or prompts from their beginning."""
        if load.tokens == load.sequences:
            return cls.DECODE
        if load.sequences == 1 or load.kv_tokens == load.tokens:
            return cls.PROMPT
        return cls.MIXED


@dataclass(frozen=True, slots=True)
class Accuracy:
    """How far predictions are from so many `steps`: |predicted - measured| / measured."""

    steps: int
    mean: float
    largest: float


def accuracy(
    coefficients: Coefficients, observations: Sequence[Observation]
) -> dict[StepKind, Accuracy]:
    """For each kind of step that was measured."""
    found: dict[StepKind, list[float]] = {}
    for load, seconds in observations:
        error = abs(coefficients.seconds(load) - seconds) / seconds
        found.setdefault(StepKind.of(load), []).append(error)
    return {
        kind: Accuracy(len(errors), sum(errors) / len(errors), max(errors))
        for kind, errors in found.items()
    }
