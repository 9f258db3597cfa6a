"""Everybody sends everybody another part.  Size: all parts of one device, its own included.

All sends are posted at once; measured latencies grow by about a step with each doubling.  Across
nodes a device sends what is meant for other nodes over its own link to the network, while parts
for its own node go by the fabric inside.
"""

from __future__ import annotations

from ellm.sim.fabrics.collective import (
    Collective,
    Stage,
    doublings,
    one_of_nodes,
    register,
    whole,
)

register(
    Collective(
        name="all_to_all",
        bus_factor=lambda devices: (devices - 1) / devices,
        steps=doublings,
        within=(Stage("all_to_all", one_of_nodes),),
        between=(Stage("all_to_all", whole),),
    )
)
