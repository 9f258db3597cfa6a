"""Everybody gets one part of the sum.  Size: all parts together, what each device holds at first.

Steps as for an all-gather, the other way round.
"""

from __future__ import annotations

from ellm.sim.fabrics.collective import (
    Collective,
    Stage,
    doublings,
    one_of_inner,
    register,
    whole,
)

register(
    Collective(
        name="reduce_scatter",
        bus_factor=lambda devices: (devices - 1) / devices,
        steps=lambda devices: min(devices - 1, 2 * doublings(devices)),
        within=(Stage("reduce_scatter", whole),),
        between=(Stage("reduce_scatter", one_of_inner),),
    )
)
