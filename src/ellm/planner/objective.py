"""What is wished for, and who comes first under it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import TypeVar

from ellm.core.errors import ConfigError
from ellm.core.objectives import Objectives
from ellm.planner.figures import Figures

T = TypeVar("T")
# Plans this close (a share) count as equal: fewer devices decide, then less energy.
TIE = 0.01


class Objective(Enum):
    """The trace served soonest, most requests that meet their objectives a second, the least mean
    time to a whole answer, or the fewest joules a token."""

    THROUGHPUT = "throughput"
    GOODPUT = "goodput"
    LATENCY = "latency"
    ENERGY = "energy"


@dataclass(frozen=True, slots=True)
class Floor:
    """Goodput that must be reached: requests per second, or a share of all requests (0 to 1)."""

    rate: float | None = None
    share: float | None = None

    @classmethod
    def parse(cls, text: str) -> Floor:
        """`7.5` is a rate, `95%` a share.  Raises ConfigError."""
        try:
            share = text.strip().endswith("%")
            number = float(text.strip().removesuffix("%"))
        except ValueError as error:
            raise ConfigError(
                f"cannot read {text!r} as a goodput: write 7.5 for requests/s, or 95%"
            ) from error
        if not 0 < number < math.inf or (share and number > 100):
            raise ConfigError(f"a goodput of {text} cannot be: write 7.5 for requests/s, or 95%")
        return cls(share=number / 100) if share else cls(rate=number)

    def reached(self, figures: Figures) -> float:
        """How much of it there is, 1 for all."""
        assert figures.good_rate is not None
        assert figures.met is not None
        if self.rate is not None:
            return min(1.0, figures.good_rate / self.rate)
        assert self.share is not None
        return min(1.0, figures.met / self.share)

    def __str__(self) -> str:
        if self.rate is not None:
            return f"{self.rate:g} requests/s"
        assert self.share is not None
        return f"{100 * self.share:g} %"


@dataclass(frozen=True, slots=True)
class Wish:
    """The objective; with a `floor` (of goodput only) the fewest devices that reach it.

    Raises ConfigError where goodput is wished for without saying what is good.
    """

    objective: Objective
    slo: Objectives = field(default=Objectives())
    floor: Floor | None = None

    def __post_init__(self) -> None:
        if self.objective is not Objective.GOODPUT:
            if self.floor is not None:
                raise ConfigError(
                    "--min-goodput looks for the fewest devices that reach it, and --objective "
                    f"{self.objective.value} for something else: give one"
                )
        elif not self.slo.stated:
            raise ConfigError(
                "goodput counts requests that are served soon enough: say how soon with "
                "--ttft-slo or --tpot-slo"
            )

    def value(self, figures: Figures) -> float:
        """More is better; never negative."""
        if self.floor is not None:
            return self.floor.reached(figures)
        match self.objective:
            case Objective.THROUGHPUT:
                return figures.output_rate
            case Objective.GOODPUT:
                assert figures.good_rate is not None
                return figures.good_rate
            case Objective.LATENCY:
                return 1 / figures.e2el if figures.e2el else 0.0
            case Objective.ENERGY:
                return 1 / figures.joules

    @property
    def tie(self) -> float:
        """What is below a floor by ever so little does not reach it."""
        return 0.0 if self.floor is not None else TIE

    def ranked(self, items: Iterable[T], of: Callable[[T], Figures]) -> list[T]:
        """The best first.  Who is within a tie of the best of those left is ordered by devices,
        then by energy."""
        left = sorted(items, key=lambda item: -self.value(of(item)))
        order: list[T] = []
        while left:
            least = self.value(of(left[0])) * (1 - self.tie)
            equal = [item for item in left if self.value(of(item)) >= least]
            order += sorted(equal, key=lambda item: _price(of(item)))
            left = left[len(equal) :]
        return order

    def hopeless(self, at_best: Figures, known: Sequence[Figures]) -> bool:
        """Whether one of `known` comes before a plan that can be no better than `at_best`."""
        most = self.value(at_best)
        return any(
            self.value(one) * (1 - self.tie) > most
            or (self.value(one) >= most and _price(one) <= _price(at_best))
            for one in known
        )


def _price(figures: Figures) -> tuple[float, ...]:
    return (figures.devices, figures.joules)
