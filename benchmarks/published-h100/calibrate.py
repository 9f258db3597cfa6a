"""Fit the constants of a server to a few of its cells, and write them as a device file.

    APEX_HOME=path/to/apex_plus python benchmarks/published-h100/calibrate.py

The fit looks at TTFT and TPOT of the calibrating cells alone (`cells.CALIBRATING`), by a quick
replay; what it finds is then simulated.  Everything that is not fitted is the catalogue's H100.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

sys.path.append(str(Path(__file__).resolve().parents[1]))

from cells import METRICS, Cell, cells, home, sent
from device_file import changed, write
from fitting import fitted
from replay import Replay
from simulated import FILES, deployment, serve, wired

from ellm.sim.devices.device import Device
from ellm.sim.devices.known import find_device
from ellm.sim.workload.item import Item

DIGITS = 4
# Clocks stop when the engine has the last token, and start when it has the prompt.
ENGINE_ALONE = {
    "overhead.completion": 0.0,
    "overhead.prompt_token": 0.0,
    "overhead.output_token": 0.0,
}
# Where searches begin.  A floor that nothing touches has no slope, so it begins in several places.
LAUNCH = "overhead.launch"
LAUNCHES = (250e-6, 500e-6, 1000e-6)
START = {
    "overhead.layer": 50e-6,
    "overhead.sequence": 200e-6,
    "overhead.request": 10e-3,
    "efficiency.bandwidth": 0.8,
    "efficiency.matmul": 0.8,
    "efficiency.formats.fp8": 0.5,
}


@dataclass(frozen=True, slots=True)
class Kind:
    """Servers that have their constants in common.

    `free` are fitted; the others are those of the kind `like`, or of the catalogue.
    """

    weights: str
    name: str
    free: Sequence[str]
    like: str | None = None


OWN = ("overhead.layer", LAUNCH)
KINDS = (
    Kind(
        "bf16",
        "H100-vLLM-0.6.0",
        (
            *OWN,
            "overhead.sequence",
            "overhead.request",
            "efficiency.bandwidth",
            "efficiency.matmul",
        ),
    ),
    Kind("fp8, as stored", "H100-vLLM-0.6.0-fp8", (*OWN, "efficiency.formats.fp8"), like="bf16"),
    Kind(
        "fp8, quantized when loaded",
        "H100-vLLM-0.6.0-fp8-loaded",
        OWN,
        like="fp8, as stored",
    ),
)


def replayed(cell: Cell, device: Device, sent: Sequence[Sequence[Item]]) -> dict[str, float]:
    """The means of a cell, quickly."""
    made = deployment(cell, device)
    (stage,) = made.stages
    replays = [Replay(stage, made.limits.step_tokens, cell.chunk is not None) for _ in sent]
    for replay, items in zip(replays, sent, strict=True):
        replay.run(items)
    requests = sum(map(len, sent))
    output = sum(item.output_tokens for items in sent for item in items)
    ttft = device.overhead.request + sum(each.ttft for each in replays) / requests
    after = sum(each.after for each in replays)
    return {
        "ttft_ms": 1e3 * ttft,
        "tpot_ms": 1e3 * after / (output - requests),
        "e2e_s": ttft + after / requests,
    }


def calibrate(
    kind: Kind, base: Device, known: Sequence[tuple[Cell, list[list[Item]]]]
) -> tuple[Device, Mapping[str, float]]:
    """`base` with the constants that fit the known cells best, and those constants."""

    def residuals(values: Mapping[str, float]) -> NDArray[np.float64]:
        device = changed(base, values)
        errors = []
        for cell, items in known:
            found = replayed(cell, wired(device, cell), items)
            errors += [found[one] / cell.measured[one] - 1 for one in ("ttft_ms", "tpot_ms")]
        return np.array(errors)

    shares = {name: 1.0 for name in kind.free if name.startswith("efficiency.")}
    starts = [{name: START[name] for name in kind.free if name in START}]
    if LAUNCH in kind.free:
        starts = [{**starts[0], LAUNCH: launch} for launch in LAUNCHES]
    values = min(
        (fitted(residuals, start, shares) for start in starts),
        key=lambda found: float(np.square(residuals(found)).sum()),
    )
    rounded = {name: float(f"{value:.{DIGITS}g}") for name, value in values.items()}
    return changed(base, rounded), rounded


def said(kind: Kind, known: Sequence[Cell], found: Mapping[str, float]) -> dict[str, str]:
    """Where each figure is from."""
    names = ", ".join(cell.name for cell in known)
    fit = f"Fitted by benchmarks/published-h100/calibrate.py to TTFT and TPOT of {names}."
    sources = dict.fromkeys(found, fit)
    for name in ENGINE_ALONE:
        sources[name] = "None: what was measured begins and ends in the engine."
    rest = "of H100 in the catalogue, whose file has the sources"
    if kind.like is not None:
        rest = f"as in {FILES[kind.like].name}"
    return {"name": f"What has no source here is {rest}.", **sources}


def main() -> None:
    root = home()
    every = [cell for cell in cells() if cell.calibrates]
    devices: dict[str | None, Device] = {None: changed(find_device("H100"), ENGINE_ALONE)}
    for kind in KINDS:
        known = [(cell, sent(root, cell)) for cell in every if cell.weights == kind.weights]
        device, found = calibrate(kind, devices[kind.like], known)
        devices[kind.weights] = device = replace(device, name=kind.name)
        print(kind.name, {name: f"{value:g}" for name, value in found.items()})
        what = f"H100 under vLLM 0.6.0, weights in {kind.weights}; calibrate.py wrote this."
        write(FILES[kind.weights], device, what, said(kind, [cell for cell, _ in known], found))
        for cell, items in known:
            simulated, _ = serve(cell, wired(device, cell), items)
            quick = replayed(cell, wired(device, cell), items)
            print(f"{cell.name:32}", *(_error(m, simulated, quick, cell) for m in METRICS))


def _error(
    metric: str, simulated: Mapping[str, float], quick: Mapping[str, float], cell: Cell
) -> str:
    measured, found = cell.measured[metric], simulated[metric]
    return (
        f"{metric} {measured:.2f} measured, {found:.2f} simulated ({found / measured - 1:+.1%}; "
        f"replay {quick[metric] / found - 1:+.2%})"
    )


if __name__ == "__main__":
    main()
