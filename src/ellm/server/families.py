"""Prometheus families with rows for every model, labelled as vLLM labels them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from itertools import accumulate
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric

from ellm.obs.histogram import Histogram
from ellm.obs.models import ModelInfo
from ellm.obs.snapshot import EngineSnapshot, TierSnapshot
from ellm.obs.stats import EngineStats

_ENGINE = "0"
EVERYONE = ""
"""The `model_name` of what belongs to no one model; to Prometheus it is as if it were left out."""

Number = float | Histogram
Value = Number | Mapping[str, float] | Mapping[str, Histogram] | None
"""One number, one for each value of a further label, or nothing to tell."""


class Kind(Enum):
    """What Prometheus may do with the numbers."""

    COUNTER = CounterMetricFamily
    GAUGE = GaugeMetricFamily
    HISTOGRAM = HistogramMetricFamily


@dataclass(frozen=True, slots=True)
class Reading:
    """What one model says of itself at one moment; `name` is what clients call it.

    The first of several speaks for the tier, which they share.
    """

    name: str
    info: ModelInfo
    stats: EngineStats
    now: EngineSnapshot
    is_first: bool = True

    @property
    def tier(self) -> TierSnapshot | None:
        return self.now.tier if self.is_first else None


@dataclass(frozen=True, slots=True)
class Family:
    """`of` finds its numbers in a reading; `label` is what they are told apart by, if they are."""

    kind: Kind
    name: str
    text: str
    of: Callable[[Reading], Value]
    label: str | None = None

    def collect(self, readings: Iterable[Reading], shared: Value = None) -> Metric:
        """As a scrape shows it; `shared` is what belongs to no one model."""
        rows = [(reading.name, self.of(reading)) for reading in readings]
        return family(self.kind, self.name, self.text, [*rows, (EVERYONE, shared)], self.label)


def family(
    kind: Kind,
    name: str,
    text: str,
    rows: Iterable[tuple[str, Value]],
    label: str | None = None,
) -> Metric:
    """A family of (model, value) rows."""
    labels = ["model_name", "engine", *([] if label is None else [label])]
    made: Any = kind.value(name, text, labels=labels)
    for model, value in rows:
        if isinstance(value, Mapping):
            assert label is not None, name
            for key, number in value.items():
                made.add_metric([model, _ENGINE, key], *_sample(number))
        elif value is not None:
            assert label is None, name
            made.add_metric([model, _ENGINE], *_sample(value))
    return made  # type: ignore[no-any-return]


def _sample(number: Number) -> tuple[Any, ...]:
    """The arguments of `add_metric` after the labels."""
    if not isinstance(number, Histogram):
        return (number,)
    bounds = [*(str(float(bound)) for bound in number.bounds), "+Inf"]
    counts, total = list(number.counts), number.total
    return list(zip(bounds, map(float, accumulate(counts)), strict=True)), total
