"""How long a step takes, learned from the steps that were run.

    seconds = token · tokens + attention · pairs + kv_token · tokens of KV
              + sequence · sequences + step

The form is SmartSpec's (arXiv 2406.14066) with one term more: a prompt's attention grows with the
square of its length, a decoding step's with the KV it reads.  No coefficient is negative, so more
work never seems to cost less.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import astuple, dataclass
from statistics import median
from typing import Any

from ellm.core.load import StepLoad
from ellm.scheduling.nnls import nonnegative

FORMAT = 1
# So many observations only scale the prior; afterwards the coefficients are fitted, now and then.
WARM_UP = 16
REFIT = 16
# An observation is forgotten by a factor e after 250 others.
MEMORY = 0.996
# What a coefficient is worth is remembered for much longer than any one fit.
REACH_MEMORY = 1e-5
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


@dataclass(frozen=True, slots=True)
class Coefficients:
    """Seconds for each unit of load; `step` is what the emptiest step takes."""

    token: float
    attention: float
    kv_token: float
    sequence: float
    step: float

    def seconds(self, load: StepLoad) -> float:
        return (
            self.token * load.tokens
            + self.attention * load.attention
            + self.kv_token * load.kv_tokens
            + self.sequence * load.sequences
            + self.step
        )

    def times(self, factor: float) -> Coefficients:
        return Coefficients(*(factor * value for value in astuple(self)))


# Eight billion parameters on one data-centre GPU.  Only the proportions matter for long: the first
# steps say how fast this machine is.
PRIOR = Coefficients(token=2e-5, attention=1e-9, kv_token=5e-8, sequence=1e-5, step=7e-3)


class StepCost:
    """Predicts the seconds of a step, and learns from every step that was measured.

    The normal equations of a weighted least-squares fit are kept up with every observation and
    solved now and then, under three rules.  Errors are relative: a fast step counts as much as a
    slow one.  Large errors count less (Huber, 1964): one hiccup moves little, a lasting change
    wins.  And each fit starts from the last one and pays for leaving it, for every coefficient in
    proportion to what it explains in the long run: what recent steps do not tell apart (tokens
    and sequences, while everybody decodes) stays as it was.

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
        self._products = [0.0] * 15  # Σ w x xᵀ, upper triangle
        self._moments = [0.0] * 5  # Σ w x y
        self._weight = 0.0  # Σ w, before the division by the squared time
        self._reach = [0.0] * 5  # long mean of (x / seconds)²
        self._spread = 0.5  # usual relative error
        self._distrusted = 0  # in a row

    def predict(self, load: StepLoad) -> float:
        """Seconds such a step will take; never negative, never less for more load."""
        return self.coefficients.seconds(load)

    def largest_chunk(self, load: StepLoad, computed: int, most: int, seconds: float) -> int:
        """The most tokens, up to `most`, that a step with `load` can add within `seconds`.

        They belong to one more sequence, of which `computed` tokens are computed.  0 if none fits.
        `seconds` may be infinite.
        """
        c = self.coefficients
        room = seconds - c.seconds(load) - c.kv_token * computed - c.sequence
        if most <= 0 or room < 0:
            return 0
        if room == math.inf:
            return most
        # The step's time is a quadratic in the chunk, and this its positive root.
        linear = c.token + c.attention * (computed + 0.5) + c.kv_token
        slope = linear + math.sqrt(linear * linear + 2 * c.attention * room)
        chunk = min(most, int(2 * room / slope)) if slope * most > 2 * room else most
        while chunk and self.predict(load.with_sequence(chunk, computed + chunk)) > seconds:
            chunk -= 1  # rounding
        return chunk

    def observe(self, load: StepLoad, seconds: float) -> None:
        """A step with `load` took `seconds`.  Nothing is learned from one that took no time."""
        if seconds <= 0:
            return
        self.observations += 1
        predicted = self.predict(load)
        # A denominator between the two keeps both kinds of surprise finite.
        scale, trust = max(predicted, seconds / BELIEVED), 1.0
        if self.observations <= WARM_UP:
            self._ratios.append(seconds / max(self._prior.seconds(load), 1e-12))
            self.coefficients = self._prior.times(median(self._ratios))
            scale = seconds
        else:
            trust = self._judge(abs(seconds - predicted) / scale)
            rate = max(ERROR_RATE, 1 / (self.observations - WARM_UP))
            self.error += rate * (abs(seconds - predicted) / seconds - self.error)
        self._learn(load, seconds, scale, trust)
        if self.observations >= WARM_UP and self.observations % REFIT == 0:
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
            self._discount(CHANGED_KEEPS)
        return limit / error

    def _discount(self, share: float) -> None:
        """Let all that was learned so far count only so much."""
        self._products = [share * value for value in self._products]
        self._moments = [share * value for value in self._moments]
        self._weight *= share

    def _learn(self, load: StepLoad, seconds: float, scale: float, trust: float) -> None:
        """Add one row to the normal equations, in units of `scale`."""
        amounts = (load.tokens, load.attention, load.kv_tokens, load.sequences, 1)
        t, a, k, n, one = (amount / scale for amount in amounts)
        # fmt: off
        row = (
            t * t, t * a, t * k, t * n, t * one,
            a * a, a * k, a * n, a * one,
            k * k, k * n, k * one,
            n * n, n * one,
            one * one,
        )
        # fmt: on
        pairs = zip(self._products, row, strict=True)
        self._products = [MEMORY * old + trust * new for old, new in pairs]
        answer = trust * seconds / scale
        pairs = zip(self._moments, (t, a, k, n, one), strict=True)
        self._moments = [MEMORY * old + answer * new for old, new in pairs]
        self._weight = MEMORY * self._weight + trust
        rate = max(REACH_MEMORY, 1 / self.observations)
        pairs = zip(self._reach, (row[0], row[5], row[9], row[12], row[14]), strict=True)
        self._reach = [old + rate * (new - old) for old, new in pairs]

    def _refit(self) -> None:
        upper = iter(self._products)
        rows = [[0.0] * 5 for _ in range(5)]
        for i in range(5):
            for j in range(i, 5):
                rows[i][j] = rows[j][i] = next(upper)
        wanted = list(self._moments)
        old = astuple(self.coefficients)
        for i in range(5):
            keep = INERTIA * self._weight * self._reach[i]
            rows[i][i] += keep
            wanted[i] += keep * old[i]
        self.coefficients = Coefficients(*nonnegative(rows, wanted, old))

    def to_json(self) -> str:
        """Everything learned, and what it belongs to."""
        return json.dumps(
            {
                "format": FORMAT,
                "provenance": self.provenance,
                "observations": self.observations,
                "error": self.error,
                "spread": self._spread,
                "weight": self._weight,
                "prior": astuple(self._prior),
                "coefficients": astuple(self.coefficients),
                "ratios": self._ratios,
                "reach": self._reach,
                "moments": self._moments,
                "products": self._products,
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
        cost = cls(provenance, Coefficients(*_numbers(state, "prior", 5)))
        cost.coefficients = Coefficients(*_numbers(state, "coefficients", 5))
        cost.observations = int(_numbers(state, "observations")[0])
        cost.error = _numbers(state, "error")[0]
        cost._spread = _numbers(state, "spread")[0]
        cost._weight = _numbers(state, "weight")[0]
        cost._ratios = _numbers(state, "ratios", min(cost.observations, WARM_UP))
        cost._reach = _numbers(state, "reach", 5)
        cost._moments = _numbers(state, "moments", 5)
        cost._products = _numbers(state, "products", 15)
        return cost


def _numbers(state: Mapping[str, Any], name: str, count: int | None = None) -> list[float]:
    """`count` finite numbers, none negative; None for one that stands alone."""
    found = state.get(name)
    values = [found] if count is None else found
    if (
        not isinstance(values, list)
        or len(values) != (count or 1)
        or not all(isinstance(value, int | float) and 0 <= value < math.inf for value in values)
    ):
        raise ValueError(f"{name} is not {count or 1} finite numbers of at least 0")
    return [float(value) for value in values]
