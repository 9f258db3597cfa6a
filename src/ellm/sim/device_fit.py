"""A device made from what was measured on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ellm.core.load import StepLoad
from ellm.scheduling.coefficients import Coefficients
from ellm.scheduling.nnls import nonnegative
from ellm.sim.anatomy.formats import Formats
from ellm.sim.anatomy.transformer import Transformer, whole
from ellm.sim.costs.roofline import Roofline
from ellm.sim.devices.device import Device, Overhead
from ellm.sim.fabrics.interconnect import Interconnect
from ellm.sim.fabrics.known import find_fabric
from ellm.sim.parallel.plan import uniform

NO_OVERHEAD = Overhead(
    step=0.0,
    layer=0.0,
    sequence=0.0,
    request=0.0,
    completion=0.0,
    prompt_token=0.0,
    output_token=0.0,
)


@dataclass(frozen=True, slots=True)
class StepRun:
    """Steps of one model: loads and seconds; and the least that one with a prompt takes, where
    launches hold it up."""

    transformer: Transformer
    formats: Formats
    steps: Sequence[tuple[StepLoad, float]]
    launched: float | None = None


def attention_share(
    transformer: Transformer, coefficients: Coefficients, flops: float
) -> float | None:
    """The share of `flops` that attention over a prompt reaches, if each pair takes what
    `coefficients` say; None if they say that it takes nothing."""
    heads = [whole(cell).shard.heads for block in transformer.blocks for cell in block]
    operations = sum(each.pair_flops for each in heads if each is not None)
    if not coefficients.attention:
        return None
    return min(1.0, operations / (coefficients.attention * flops))


def fit_overhead(device: Device, runs: Sequence[StepRun]) -> Overhead:
    """`step`, `layer` and `sequence` for which the roofline of `device` is nearest to `runs`, and
    the `launch` of the first of them.

    Least squares of relative errors, none of the three negative.  With models of one depth alone,
    what is said to be a layer's and what a step's means nothing; their sum does.
    """
    bare = replace(device, overhead=NO_OVERHEAD)
    rows = [[0.0] * 3 for _ in range(3)]
    wanted = [0.0] * 3
    for run in runs:
        layers, bound = len(run.transformer.blocks), _bound(bare, run)
        for (load, seconds), least in zip(run.steps, bound, strict=True):
            parts = (1.0, layers, load.sequences)
            for i, one in enumerate(parts):
                wanted[i] += one * (seconds - least) / seconds**2
                for j, other in enumerate(parts):
                    rows[i][j] += one * other / seconds**2
    if not rows[0][0]:
        return NO_OVERHEAD
    # So little that it only keeps apart what nothing else does.
    for i in range(3):
        rows[i][i] *= 1 + 1e-9
    step, layer, sequence = nonnegative(rows, wanted, [1e-5] * 3)
    launch = 0.0
    if runs[0].launched is not None:
        launch = max(0.0, runs[0].launched - step) / len(runs[0].transformer.blocks)
    return replace(NO_OVERHEAD, step=step, layer=layer, sequence=sequence, launch=launch)


def roofline_error(device: Device, run: StepRun) -> float:
    """Mean of |predicted - measured| / measured."""
    predicted = _bound(device, run)
    pairs = zip(predicted, run.steps, strict=True)
    return sum(abs(one / seconds - 1) for one, (_, seconds) in pairs) / len(run.steps)


def _bound(device: Device, run: StepRun) -> list[float]:
    """What the roofline says of the same steps."""
    links = Interconnect(find_fabric(device.fabric), find_fabric(device.network), device.per_node)
    roofline = Roofline(run.transformer, device, run.formats, links)
    (stage,) = roofline.stages(uniform(run.transformer))
    return [stage.seconds([load]) for load, _ in run.steps]
