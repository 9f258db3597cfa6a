"""One arm on some devices under the trace."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from arms import ARMS, opened, places
from household import Lodger, of_models
from judged import figures

from ellm.sim.devices.device import Device
from ellm.sim.household import Household
from ellm.sim.served import Served
from ellm.sim.workload.item import Item

# Points in a plot of memory over time.
SERIES_POINTS = 120


def trial(
    name: str,
    models: Sequence[Lodger],
    device: Device,
    devices: int,
    items: Sequence[Item],
    scale: float,
    series: bool = False,
) -> dict[str, Any]:
    """Devices share nothing, so they run one after the other; with `series`, who held how much on
    the first of them, over time."""
    arm, began = ARMS[name], time.process_time()
    served: list[Served] = []
    homes: list[Household] = []
    placed = places(arm, models, device, devices)
    for numbers in placed:
        home = opened(arm, [models[number] for number in numbers], device, scale)
        home.run(of_models(items, numbers))
        home.check()
        served += [replace(one, model=numbers[one.model]) for one in home.served]
        homes.append(home)
    engines = [home.fleet.model(m.name).engine for home in homes for m in home.members]
    return {
        "round": 0,
        "arm": name,
        "devices": devices,
        "placed": placed,
        **figures(served, models, items, scale),
        "loads": sum(home.loads for home in homes),
        "steps": sum(engine.stats.steps for engine in engines),
        "preemptions": sum(engine.stats.preemptions for engine in engines),
        "memory": _series(homes[0], placed[0]) if series else None,
        "cpu": round(time.process_time() - began, 2),
    }


def _series(home: Household, numbers: Sequence[int]) -> dict[str, Any]:
    """GiB by model at some moments."""
    samples = home.timeline.samples
    samples = samples[:: max(1, len(samples) // SERIES_POINTS)]
    return {
        "models": list(numbers),
        "t": [round(sample.time, 2) for sample in samples],
        "held": [[round(held / 2**30, 2) for held in sample.held] for sample in samples],
    }


def line(trial: dict[str, Any]) -> str:
    """One trial for whoever looks on."""
    return (
        f"{trial['devices']} devices, {trial['speed']:g}x, {trial['arm']}: "
        f"attainment {trial['attainment']:.1%} (ttft {trial['ttft_attainment']:.1%}, "
        f"tpot {trial['tpot_attainment']:.1%}), unserved {trial['unserved']}, "
        f"ttft {1e3 * trial['ttft_p50']:.0f}/{1e3 * trial['ttft_p99']:.0f} ms, "
        f"tpot {1e3 * trial['tpot_p50']:.1f}/{1e3 * trial['tpot_p99']:.1f} ms, "
        f"{trial['loads']} loads, {trial['preemptions']} preemptions, {trial['seconds']:.0f} s, "
        f"cpu {trial['cpu']:.1f} s, {1e6 * trial['cpu'] / max(1, trial['steps']):.0f} us a step"
    )
