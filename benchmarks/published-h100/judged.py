"""How far simulated means are from measured ones, and which plans they put first."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import fmean

from cells import METRICS

from harness.results import Trial

# Measured differences that are not worth a rank, by metric: means of TTFT are that uncertain.
NO_RANK = {"ttft_ms": 0.10, "tpot_ms": 0.0, "e2e_s": 0.0}


def error(trial: Trial, metric: str) -> float:
    """What is simulated beyond what was measured, of that."""
    return float(trial["simulated"][metric] / trial["measured"][metric] - 1)


@dataclass(frozen=True, slots=True)
class Errors:
    """Of some cells, by metric: the mean of their sizes, and the largest."""

    cells: int
    mean: dict[str, float]
    largest: dict[str, float]

    @classmethod
    def of(cls, trials: Sequence[Trial]) -> Errors:
        sizes = {metric: [abs(error(trial, metric)) for trial in trials] for metric in METRICS}
        mean = {metric: fmean(each) for metric, each in sizes.items()}
        return cls(len(trials), mean, {metric: max(each) for metric, each in sizes.items()})

    @property
    def overall(self) -> float:
        return fmean(self.mean.values())


# Which cells a line of the table is about.
GROUPS: dict[str, Callable[[Trial], bool]] = {
    "all": lambda trial: True,
    "calibrating": lambda trial: bool(trial["calibrates"]),
    "held out": lambda trial: not trial["calibrates"],
}


def groups(trials: Sequence[Trial]) -> Iterator[tuple[str, str, str, Errors]]:
    """Arm, family and group with their errors; what is by data sheet has one group."""
    for arm in dict.fromkeys(trial["arm"] for trial in trials):
        for family in ("llama", "mistral"):
            of_arm = [one for one in trials if (one["arm"], one["family"]) == (arm, family)]
            for name, belongs in GROUPS.items():
                chosen = [trial for trial in of_arm if belongs(trial)]
                if chosen and (arm == "calibrated" or name == "all"):
                    yield arm, family, name, Errors.of(chosen)


@dataclass(frozen=True, slots=True)
class Ranking:
    """Pairs of plans under the same load, of which `wrong` are in another order than measured."""

    pairs: int
    wrong: tuple[str, ...]

    @classmethod
    def of(cls, trials: Sequence[Trial], metric: str) -> Ranking:
        """Of one arm."""
        by_load: dict[str, list[Trial]] = defaultdict(list)
        for trial in trials:
            by_load[f"{trial['family']}-{trial['load']}"].append(trial)
        pairs, wrong = 0, []
        for load, found in by_load.items():
            for one, other in combinations(found, 2):
                measured, simulated = (
                    one[figures][metric] / other[figures][metric] - 1
                    for figures in ("measured", "simulated")
                )
                if abs(measured) <= NO_RANK[metric]:
                    continue
                pairs += 1
                if (measured > 0) != (simulated > 0):
                    wrong.append(f"{load} {one['plan']}/{other['plan']} {measured:+.1%}")
        return cls(pairs, tuple(wrong))
