"""Lengths of prompts and answers that nobody recorded."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass

from ellm.core.errors import ConfigError
from ellm.sim.workload.item import Item

# More than any context.
_LONGEST = 1 << 20


@dataclass(frozen=True, slots=True)
class LogNormal:
    """Tokens whose logarithm is normally distributed with `deviation`, and whose mean is `mean`.

    What is drawn below `shortest` or above `longest` is set to them; `mean` is that of what comes
    out.  ConfigError where no such distribution exists.
    """

    mean: float
    deviation: float = 1.0
    shortest: int = 1
    longest: int = _LONGEST

    def __post_init__(self) -> None:
        if not 1 <= self.shortest < self.mean < self.longest or not self.deviation > 0:
            raise ConfigError(
                f"no lengths have a mean of {self.mean:g} between {self.shortest} and "
                f"{self.longest} tokens with a deviation of {self.deviation:g}: the mean must be "
                "between the other two, and the deviation above 0"
            )

    def draws(self, rng: random.Random) -> Iterator[int]:
        """Lengths without end."""
        middle = self._middle()
        while True:
            drawn = rng.lognormvariate(middle, self.deviation)
            yield round(min(max(drawn, self.shortest), self.longest))

    def _middle(self) -> float:
        """The mean of the logarithm, by bisection."""
        low = math.log(self.shortest) - 8 * self.deviation
        high = math.log(self.longest) + 8 * self.deviation
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if self._mean(middle) < self.mean else (low, middle)
        return low

    def _mean(self, middle: float) -> float:
        """Of what comes out where the logarithm's mean is `middle`."""
        deviation = self.deviation
        below = (math.log(self.shortest) - middle) / deviation
        above = (math.log(self.longest) - middle) / deviation
        whole = math.exp(middle + deviation**2 / 2)
        within = whole * (_normal(above - deviation) - _normal(below - deviation))
        return self.shortest * _normal(below) + within + self.longest * (1 - _normal(above))


# Mean lengths of prompts and answers: Kwon et al. 2023 (PagedAttention), figure 11.  The limit is
# that per side at which vLLM leaves a conversation out; the deviations are our assumption.
SHAREGPT = LogNormal(161.0, shortest=4, longest=1024), LogNormal(338.0, shortest=4, longest=1024)
ALPACA = LogNormal(19.3), LogNormal(58.5)


def fixed(count: int, prompt_tokens: int, output_tokens: int) -> list[Item]:
    """`count` requests of one length."""
    return [Item(prompt_tokens, output_tokens)] * count


def drawn(count: int, prompt: LogNormal, output: LogNormal, seed: int) -> list[Item]:
    """`count` requests; like `*SHAREGPT` or `*ALPACA`, or any other."""
    rng = random.Random(seed)
    prompts, outputs = prompt.draws(rng), output.draws(rng)
    return [Item(next(prompts), next(outputs)) for _ in range(count)]


def _normal(deviations: float) -> float:
    """The share of a normal distribution that is less than so many deviations above its mean."""
    return (1 + math.erf(deviations / math.sqrt(2))) / 2
