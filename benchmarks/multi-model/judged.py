"""What became of the requests of one run, held against objectives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from ellm.obs.spread import percentile

Request = Mapping[str, Any]
Solo = Mapping[int, tuple[float, float]]
"""Median TTFT and TPOT of each model alone, in seconds."""

# Objectives are so many times what a model takes alone (Prism sweeps them too): both alike, and
# the pair that is asked of interactive services on GPUs.
SCALES = (2, 3, 5, 7, 10, 15, 20, 30, 50)
STRICT = (5, 3)


def solo_medians(alone: Mapping[str, Sequence[Sequence[float]]]) -> dict[int, tuple[float, float]]:
    """From the worker's answer."""
    return {
        int(model): (median(t for t, _ in times), median(t for _, t in times))
        for model, times in alone.items()
    }


def share_met(requests: Sequence[Request], solo: Solo, ttft: float, tpot: float) -> float:
    """The share of all requests that met both objectives; one that failed met none."""
    return sum(meets(request, solo, ttft, tpot) for request in requests) / len(requests)


def meets(request: Request, solo: Solo, ttft: float, tpot: float) -> bool:
    """Whether both times are within so many times those of its model alone."""
    if "error" in request:
        return False
    first, each = solo[request["model"]]
    return bool(request["ttft"] <= ttft * first and request["tpot"] <= tpot * each)


def figures(
    requests: Sequence[Request], solo: Solo, scale: tuple[float, float], seconds: float
) -> dict[str, Any]:
    """What a trial records of its requests; times are in seconds."""
    served = [request for request in requests if "error" not in request]
    attainment = share_met(requests, solo, *scale)
    models = sorted(solo)
    of_model = [[r for r in requests if r["model"] == model] for model in models]
    return {
        "requests": len(requests),
        "errors": len(requests) - len(served),
        "attainment": attainment,
        "ttft_attainment": share_met(requests, solo, scale[0], float("inf")),
        "tpot_attainment": share_met(requests, solo, float("inf"), scale[1]),
        "strict_attainment": share_met(requests, solo, *STRICT),
        "attainment_at": {str(s): share_met(requests, solo, s, s) for s in SCALES},
        "attainment_of": {
            str(model): round(share_met(own, solo, *scale), 4)
            for model, own in zip(models, of_model, strict=True)
            if own
        },
        "requests_of": {str(model): len(own) for model, own in zip(models, of_model, strict=True)},
        "goodput": attainment * len(requests) / seconds,
        **_spread("ttft", [request["ttft"] for request in served]),
        **_spread("tpot", [request["tpot"] for request in served]),
    }


def _spread(name: str, values: Sequence[float]) -> dict[str, float]:
    return {
        f"{name}_p50": percentile(values, 0.5),
        f"{name}_p95": percentile(values, 0.95),
    }
