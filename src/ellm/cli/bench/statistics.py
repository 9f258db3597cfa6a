"""Latencies, throughput and goodput of a load run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ellm.cli.bench.client import Outcome
from ellm.core.errors import ConfigError
from ellm.obs.spread import Spread

OBJECTIVES = ("ttft", "tpot", "e2el")


@dataclass(frozen=True, slots=True)
class Attainment:
    """How many of `requests` were served, and as soon as was wished.

    `goodput` is requests a second that met every objective (DistServe, Zhong et al. 2024); `shares`
    of all requests (0 to 1) met the objective of that name, and `all` of them.  A request that
    failed met none.
    """

    requests: int
    completed: int
    goodput: float
    shares: Mapping[str, float]

    @classmethod
    def of(
        cls, outcomes: Sequence[Outcome], duration: float, objectives: Mapping[str, float]
    ) -> Attainment:
        """Of at least one outcome."""
        good = [outcome for outcome in outcomes if outcome.error is None]
        each = {name: {name: limit} for name, limit in objectives.items()} | {"all": objectives}
        met = {name: sum(meets(o, wished) for o in good) for name, wished in each.items()}
        shares = {name: count / len(outcomes) for name, count in met.items()}
        return cls(len(outcomes), len(good), met["all"] / duration, shares)


@dataclass(frozen=True, slots=True)
class Summary:
    """One load run.  Rates are per second of the whole run.

    `attainment` None means no objectives; `per_model` has it for each model if there are several.
    `errors` maps an HTTP status, 0 for none, or `stream` for a failure after the headers, to a
    count.
    """

    completed: int
    failed: int
    duration: float
    prompt_tokens: int
    output_tokens: int
    request_rate: float
    output_rate: float
    total_rate: float
    attainment: Attainment | None
    per_model: Mapping[str, Attainment]
    ttft: Spread
    tpot: Spread
    itl: Spread
    e2el: Spread
    queued: Spread
    errors: Mapping[str, int]
    reasons: Mapping[str, int]

    @property
    def goodput(self) -> float | None:
        return None if self.attainment is None else self.attainment.goodput

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"goodput": self.goodput}


def parse_objectives(texts: Sequence[str]) -> dict[str, float]:
    """Seconds by name from `["ttft:500", "tpot:50,e2el:3000"]`, which are milliseconds.

    Raises ConfigError.
    """
    found: dict[str, float] = {}
    for part in ",".join(texts).replace(",", " ").split():
        name, _, limit = part.partition(":")
        try:
            seconds = float(limit) / 1e3
        except ValueError:
            seconds = -1.0
        if name not in OBJECTIVES or not seconds > 0:
            names = ", ".join(OBJECTIVES)
            raise ConfigError(f"--goodput takes NAME:MILLISECONDS with {names}, not {part!r}")
        found[name] = seconds
    return found


def meets(outcome: Outcome, objectives: Mapping[str, float]) -> bool:
    """Whether a successful request kept every objective; one token has no TPOT to break."""
    measured = {"ttft": outcome.ttft, "tpot": outcome.tpot or 0.0, "e2el": outcome.latency}
    return all(measured[name] <= limit for name, limit in objectives.items())


def summarize(
    outcomes: Sequence[Outcome], duration: float, objectives: Mapping[str, float]
) -> Summary:
    """The figures of a run that took `duration` seconds."""
    good = [outcome for outcome in outcomes if outcome.error is None]
    bad = [outcome for outcome in outcomes if outcome.error is not None]
    prompt = sum(outcome.prompt_tokens for outcome in good)
    output = sum(outcome.output_tokens for outcome in good)
    models = sorted({outcome.model for outcome in outcomes})
    shares = {
        model: Attainment.of([o for o in outcomes if o.model == model], duration, objectives)
        for model in (models if len(models) > 1 else ())
    }
    return Summary(
        completed=len(good),
        failed=len(bad),
        duration=duration,
        prompt_tokens=prompt,
        output_tokens=output,
        request_rate=len(good) / duration,
        output_rate=output / duration,
        total_rate=(prompt + output) / duration,
        attainment=Attainment.of(outcomes, duration, objectives) if objectives else None,
        per_model=shares,
        ttft=Spread.of([outcome.ttft for outcome in good]),
        tpot=Spread.of([o.tpot for o in good if o.tpot is not None]),
        itl=Spread.of([gap for outcome in good for gap in outcome.gaps]),
        e2el=Spread.of([outcome.latency for outcome in good]),
        queued=Spread.of([outcome.queued for outcome in outcomes]),
        errors=dict(Counter("stream" if o.status == 200 else str(o.status) for o in bad)),
        reasons=dict(Counter(o.error or "" for o in bad)),
    )
