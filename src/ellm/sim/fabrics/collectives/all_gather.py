"""Everybody gets everybody's part.  Size: all parts together, what each device holds at the end.

A ring takes n - 1 steps; log2 n exchanges of about two steps each do it for many nodes.
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
        name="all_gather",
        bus_factor=lambda devices: (devices - 1) / devices,
        steps=lambda devices: min(devices - 1, 2 * doublings(devices)),
        within=(Stage("all_gather", whole),),
        between=(Stage("all_gather", one_of_inner),),
    )
)
