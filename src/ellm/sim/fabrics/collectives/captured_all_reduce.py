"""The sum as serving engines take it: a kernel of their own for small messages, in a CUDA graph.

Size: one device's message.  Everybody reads everybody's message at once: one step.  Larger
messages go the usual way, and so do all where nothing was measured, as between nodes.
"""

from __future__ import annotations

from ellm.sim.fabrics.collective import Collective, register
from ellm.sim.fabrics.collectives import all_reduce

register(
    Collective(
        name="captured_all_reduce",
        bus_factor=all_reduce.bus_factor,
        steps=lambda devices: 1,
        within=all_reduce.WITHIN,
        between=all_reduce.BETWEEN,
        like="all_reduce",
    )
)
