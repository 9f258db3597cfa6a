"""How long a step takes, learned from the steps that were run."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from ellm.core.load import StepLoad
from ellm.scheduling.coefficients import KNOTS, Coefficients
from ellm.scheduling.equations import SUMS, Equations

FORMAT = 2
# So many observations only scale the prior; afterwards the coefficients are fitted, now and then.
WARM_UP = 16
REFIT = 16
# After so many observations half as often.
SETTLED = 256
# An observation is forgotten by a factor e after 250 others.
MEMORY = 0.996
# What a coefficient is worth is remembered for much longer than any one fit, and the shape of the
# curve for twenty of them.
REACH_MEMORY = 1e-5
SHAPE_RATE = 0.05
# How much of the old coefficients a fit keeps, per unit of what they explain.
INERTIA = 0.1
# Relative errors up to so many usual ones count in full; larger ones are taken for hiccups.
USUAL_ERRORS = 3.0
SPREAD_RATE = 0.05
LEAST_SPREAD = 0.01
ERROR_RATE = 0.01
# After so many distrusted observations in a row the machine has changed: what was learned before
# counts a fiftieth.
CHANGED_AFTER = 8
CHANGED_KEEPS = 0.02
# Of a step that took longer than so many times what was expected, only so much is believed.
BELIEVED = 8.0

# Eight billion parameters on one data-centre GPU.  Only the proportions matter for long: the first
# steps say how fast this machine is.
PRIOR = Coefficients.even(token=2e-5, attention=1e-9, kv_token=5e-8, sequence=1e-5, step=7e-3)
# What is known beforehand counts as much as so many steps of each of these loads, which end in all
# intervals of the curve, and is thought to be so far off, usually.
KNOWN_STEPS = 4
KNOWN_SPREAD = 0.1
KNOWN_LOADS = (
    *(StepLoad.of([(tokens, 0)]) for tokens in (*KNOTS[1:], 2 * KNOTS[-1])),
    *(StepLoad.of([(1, 1000)] * tokens) for tokens in KNOTS[1:] if tokens <= 256),
)


class StepCost:
    """Predicts the seconds of a step, and learns from every step that was measured.

    The normal equations of a weighted least-squares fit are kept up with every observation and
    solved now and then, under three rules.  Errors are relative: a fast step counts as much as a
    slow one.  Large errors count less (Huber, 1964): one hiccup moves little, a lasting change
    wins.  And each fit starts from the last one and pays for leaving it, for every coefficient in
    proportion to what it explains in the long run: what recent steps do not tell apart (tokens
    and sequences, while everybody decodes) stays as it was.  Slopes of which no
    step says anything, or nothing but noise, go with their neighbour's.

    `provenance` says what the times belong to (model, device, …).  `observations` were made;
    `error` is the running mean of |predicted - measured| / measured, 0 until the first fit.
    """

    def __init__(
        self, provenance: Mapping[str, str] | None = None, prior: Coefficients = PRIOR
    ) -> None:
        self.provenance = dict(provenance or {})
        self.coefficients = prior
        self.observations = 0
        self.error = 0.0
        self._prior = prior
        self._ratios: list[float] = []  # measured / prior, while warming up
        self._warm_up = WARM_UP
        self._equations = Equations()
        self._importance = 1.0  # of the next observation: it grows, so that older ones fade
        self._fits = 0
        self._reach = [0.0] * len(prior.values)  # long mean of what each coefficient explains
        self._slopes = list(prior.slopes)  # long mean: the shape that is expected of the curve
        self._spread = 0.5  # usual relative error
        self._distrusted = 0  # in a row

    @classmethod
    def informed(
        cls, coefficients: Coefficients, provenance: Mapping[str, str] | None = None
    ) -> StepCost:
        """One that believes `coefficients`, of a profile, until its own steps say otherwise.

        A guess of which only the proportions are good is better given as `prior`.
        """
        cost = cls(provenance, coefficients)
        cost._warm_up = 0
        cost._spread = KNOWN_SPREAD
        for load in KNOWN_LOADS:
            seconds = coefficients.seconds(load)
            cost._equations.add(load, seconds, seconds, KNOWN_STEPS)
        return cost

    def predict(self, load: StepLoad) -> float:
        """Seconds such a step will take; never negative, never less for more load."""
        return self.coefficients.seconds(load)

    def largest_chunk(self, load: StepLoad, computed: int, most: int, seconds: float) -> int:
        """`Coefficients.largest_chunk` by what is known now."""
        return self.coefficients.largest_chunk(load, computed, most, seconds)

    def observe(self, load: StepLoad, seconds: float) -> None:
        """A step with `load` took `seconds`.  Nothing is learned from one that took no time."""
        if seconds <= 0:
            return
        self.observations += 1
        predicted = self.predict(load)
        # A denominator between the two keeps both kinds of surprise finite.
        scale, trust = max(predicted, seconds / BELIEVED), 1.0
        if self.observations <= self._warm_up:
            self._ratios.append(seconds / max(self._prior.seconds(load), 1e-12))
            self.coefficients = self._prior.times(median(self._ratios))
            self._slopes = list(self.coefficients.slopes)
            scale = seconds
        else:
            trust = self._judge(abs(seconds - predicted) / scale)
            rate = max(ERROR_RATE, 1 / (self.observations - self._warm_up))
            self.error += rate * (abs(seconds - predicted) / seconds - self.error)
        self._importance /= MEMORY
        self._equations.add(load, seconds, scale, trust * self._importance)
        often = REFIT if self.observations < SETTLED else 2 * REFIT
        if self.observations % often == 0:
            self._refit()

    def _judge(self, error: float) -> float:
        """How far an observation with this relative error is trusted, 0 to 1."""
        limit = USUAL_ERRORS * self._spread
        spread = self._spread + SPREAD_RATE * (min(error, 2 * limit) - self._spread)
        self._spread = max(spread, LEAST_SPREAD)
        if error <= limit:
            self._distrusted = 0
            return 1.0
        self._distrusted += 1
        if self._distrusted == CHANGED_AFTER:
            self._distrusted = 0
            self._importance /= CHANGED_KEEPS
        return limit / error

    def _refit(self) -> None:
        # Back to one, before numbers grow out of bounds.
        self._equations.rescale(1 / self._importance)
        self._importance = 1.0
        self._fits += 1
        rate = max(REFIT * REACH_MEMORY, 1 / self._fits)
        self._reach = _nearer(self._reach, self._equations.explained(), rate)
        self.coefficients = self._equations.solved(
            self.coefficients, self._slopes, self._reach, INERTIA, self._spread
        )
        self._slopes = _nearer(self._slopes, self.coefficients.slopes, SHAPE_RATE)

    def to_json(self) -> str:
        """Everything learned, and what it belongs to."""
        return json.dumps(
            {
                "format": FORMAT,
                "provenance": self.provenance,
                "observations": self.observations,
                "error": self.error,
                "spread": self._spread,
                "fits": self._fits,
                "warm_up": self._warm_up,
                "prior": self._prior.values,
                "coefficients": self.coefficients.values,
                "ratios": self._ratios,
                "reach": self._reach,
                "importance": self._importance,
                "slopes": self._slopes,
                "sums": [value for sums in self._equations.sums for value in sums],
            },
            indent=1,
        )

    @classmethod
    def from_json(cls, text: str) -> StepCost:
        """What `to_json` wrote.  Raises ValueError, saying what is wrong with it."""
        state = json.loads(text)
        if not isinstance(state, dict) or state.get("format") != FORMAT:
            raise ValueError(f"no step times in format {FORMAT}")
        provenance = state.get("provenance")
        if not isinstance(provenance, dict):
            raise ValueError("provenance is missing")
        unknowns = len(PRIOR.values)
        cost = cls(provenance, Coefficients.of(_numbers(state, "prior", unknowns)))
        cost.coefficients = Coefficients.of(_numbers(state, "coefficients", unknowns))
        cost.observations = int(_numbers(state, "observations")[0])
        cost.error = _numbers(state, "error")[0]
        cost._spread = _numbers(state, "spread")[0]
        cost._fits = int(_numbers(state, "fits")[0])
        cost._warm_up = int(_numbers(state, "warm_up")[0])
        cost._ratios = _numbers(state, "ratios", min(cost.observations, cost._warm_up))
        cost._reach = _numbers(state, "reach", unknowns)
        cost._importance = max(1.0, _numbers(state, "importance")[0])
        cost._slopes = _numbers(state, "slopes", len(KNOTS))
        sums = _numbers(state, "sums", SUMS * len(KNOTS))
        cost._equations.sums = [sums[i : i + SUMS] for i in range(0, len(sums), SUMS)]
        return cost


def _nearer(old: Sequence[float], new: Sequence[float], rate: float) -> list[float]:
    """`old`, moved towards `new` by a share of the way."""
    return [one + rate * (another - one) for one, another in zip(old, new, strict=True)]


def _numbers(state: Mapping[str, Any], name: str, count: int | None = None) -> list[float]:
    """`count` finite numbers, none negative; None for one that stands alone."""
    found = state.get(name)
    values, length = ([found], 1) if count is None else (found, count)
    if (
        not isinstance(values, list)
        or len(values) != length
        or not all(isinstance(value, int | float) and 0 <= value < math.inf for value in values)
    ):
        raise ValueError(f"{name} is not {length} finite numbers of at least 0")
    return [float(value) for value in values]
