"""Everybody sends its message to the next.  Size: one device's message.

Of a group that spans nodes somebody's next is in another node, and that hop is the slowest.
"""

from __future__ import annotations

from ellm.sim.fabrics.collective import Collective, Stage, register, whole

register(
    Collective(
        name="send_recv",
        bus_factor=lambda devices: 1.0,
        steps=lambda devices: 1,
        within=(),
        between=(Stage("send_recv", whole),),
    )
)
