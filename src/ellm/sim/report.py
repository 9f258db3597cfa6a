"""What users felt and what the devices did, from a simulation that has ended."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ellm.core.objectives import Objectives
from ellm.obs.spread import Spread
from ellm.sim.cluster import Cluster
from ellm.sim.deployment import Deployment
from ellm.sim.served import Served
from ellm.sim.timeline import Sample


@dataclass(frozen=True, slots=True)
class Goodput:
    """`rate` requests a second met every objective, `met` of all requests (0 to 1)."""

    rate: float
    met: float
    ttft_met: float
    tpot_met: float

    @classmethod
    def of(cls, served: Sequence[Served], duration: float, wished: Objectives) -> Goodput | None:
        """None without an objective; a request that was refused met none."""
        if not wished.stated:
            return None
        ttft = [each.finished and wished.allow_ttft(each.ttft) for each in served]
        tpot = [each.finished and wished.allow_tpot(each.tpot) for each in served]
        both = sum(a and b for a, b in zip(ttft, tpot, strict=True))
        count = max(1, len(served))
        rate = both / duration if duration > 0 else 0.0
        return cls(rate, both / count, sum(ttft) / count, sum(tpot) / count)


@dataclass(frozen=True, slots=True)
class Report:
    """Rates are per second of `duration`, which is simulated time from the first arrival to the
    last token; `begun` seconds after it the last answer had begun.

    `preemptions` gave up their memory, `swapped` of them to the tier below.  `stored_bytes` and
    `loaded_bytes` went down and up.  `busy` is the share of the time that devices computed (0 to
    1); `joules` charge the board's limit for it and its idle power for the rest.  `memory` has
    bytes of a device, the mean over replicas and ranks (sim/timeline.py).
    """

    requests: int
    finished: int
    refused: int
    reasons: Mapping[str, int]
    duration: float
    begun: float
    prompt_tokens: int
    output_tokens: int
    request_rate: float
    output_rate: float
    ttft: Spread
    tpot: Spread
    e2el: Spread
    goodput: Goodput | None
    steps: int
    preemptions: int
    swapped: int
    cached_tokens: int
    stored_bytes: int
    loaded_bytes: int
    devices: int
    busy: float
    joules: float
    memory: Sequence[Sample]

    @classmethod
    def of(cls, cluster: Cluster, deployment: Deployment, wished: Objectives) -> Report:
        served = cluster.served
        done = [each for each in served if each.finished]
        began = min((each.arrival for each in served), default=0.0)
        ended = max((each.ended or 0.0 for each in done), default=began)
        duration = ended - began
        output = sum(each.output for each in served)
        stats = [engine.stats for engine in cluster.engines]
        tiers = [seen.tier.stats for seen in (e.snapshot() for e in cluster.engines) if seen.tier]
        busy = sum({id(lane.pipeline): lane.pipeline.busy for lane in cluster.lanes}.values())
        worked = busy * deployment.plan.width
        device, devices = deployment.device, deployment.plan.devices
        active = device.busy_watts - device.idle_watts
        return cls(
            requests=len(served),
            finished=len(done),
            refused=sum(each.refused is not None for each in served),
            reasons=dict(Counter(each.refused for each in served if each.refused).most_common(3)),
            duration=duration,
            begun=max((each.arrival + each.ttft for each in done), default=began) - began,
            prompt_tokens=sum(each.prompt for each in done),
            output_tokens=output,
            request_rate=len(done) / duration if duration else 0.0,
            output_rate=output / duration if duration else 0.0,
            ttft=Spread.of([each.ttft for each in done]),
            tpot=Spread.of([each.tpot for each in done if each.tpot is not None]),
            e2el=Spread.of([each.latency for each in done]),
            goodput=Goodput.of(served, duration, wished),
            steps=sum(one.steps for one in stats),
            preemptions=sum(one.preemptions for one in stats),
            swapped=sum(one.elastic.swapped for one in stats),
            cached_tokens=sum(one.cached_tokens for one in stats),
            stored_bytes=sum(tier.store_bytes for tier in tiers),
            loaded_bytes=sum(tier.load_bytes for tier in tiers),
            devices=devices,
            busy=min(1.0, worked / (duration * devices)) if duration else 0.0,
            joules=devices * duration * device.idle_watts + worked * active,
            memory=tuple(cluster.timeline.samples),
        )

    def as_json(self) -> dict[str, Any]:
        return asdict(self)
