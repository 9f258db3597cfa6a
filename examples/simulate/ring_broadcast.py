"""A collective of one's own: a broadcast around a ring, in pieces."""

from __future__ import annotations

from ellm.sim.fabrics.collective import Collective, Stage, register, whole

register(
    Collective(
        name="ring_broadcast",
        # Everybody but the last sends the whole message on.
        bus_factor=lambda devices: 1.0,
        steps=lambda devices: devices - 1,
        within=(Stage("ring_broadcast", whole),),
        between=(Stage("ring_broadcast", whole),),
    )
)
