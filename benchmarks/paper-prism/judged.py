"""What became of the requests of one trial, held against objectives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from household import Lodger

from ellm.obs.spread import percentile
from ellm.sim.served import Served
from ellm.sim.workload.item import Item

# Objectives are so many times what 95 of 100 requests of a model take alone.
SCALES = (2, 3, 5, 7, 10, 15, 20, 30, 50, 100)


def met(served: Served, model: Lodger, scale: float) -> tuple[bool, bool]:
    """Whether the first token, and those after it, came as soon as was wished."""
    wished = model.wished(scale)
    assert wished.ttft is not None
    assert wished.tpot is not None
    if not served.finished:
        return False, False
    return served.ttft <= wished.ttft, (served.tpot or 0.0) <= wished.tpot


def figures(
    served: Sequence[Served], models: Sequence[Lodger], items: Sequence[Item], scale: float
) -> dict[str, Any]:
    """What a trial records; those of `items` that are not among `served` had no model here.

    `served` have the models' own numbers; attainments are shares of all items, times in seconds.
    """
    count = len(items)
    judged = {
        each: [met(one, models[one.model], each) for one in served] for each in {*SCALES, scale}
    }
    done = [one for one in served if one.finished]
    paces = [one.tpot for one in done if one.tpot is not None]
    end = max((one.ended or 0.0 for one in done), default=0.0)
    both = {each: sum(a and b for a, b in pairs) for each, pairs in judged.items()}
    return {
        "requests": count,
        "unserved": count - len(done),
        "attainment": both[scale] / count,
        "ttft_attainment": sum(a for a, _ in judged[scale]) / count,
        "tpot_attainment": sum(b for _, b in judged[scale]) / count,
        "attainment_at": {str(each): both[each] / count for each in SCALES},
        "goodput": both[scale] / end if end else 0.0,
        "seconds": end,
        **_spread("ttft", [one.ttft for one in done]),
        **_spread("tpot", paces),
    }


def _spread(name: str, values: Sequence[float]) -> dict[str, float]:
    shares = {"p50": 0.5, "p90": 0.9, "p99": 0.99}
    return {f"{name}_{key}": round(percentile(values, share), 5) for key, share in shares.items()}
