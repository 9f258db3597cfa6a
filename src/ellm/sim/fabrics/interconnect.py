"""Nodes of devices, joined by a second fabric."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ellm.core.units import ceil_div
from ellm.sim.fabrics.collective import Stage
from ellm.sim.fabrics.discovery import find_collective
from ellm.sim.fabrics.fabric import Fabric


@dataclass(frozen=True, slots=True)
class Interconnect:
    """`inner` joins the `per_node` devices of a node, `outer` each device to other nodes.

    Every device has its own link to `outer`, as where each has its own network card.
    """

    inner: Fabric
    outer: Fabric
    per_node: int

    def seconds(self, collective: str, devices: int, size_bytes: float, stride: int = 1) -> float:
        """How long `collective` of `size_bytes` takes among `devices`, every `stride`-th one.

        `stride` 1 fills one node after the other; with as many as a node has, members are all in
        different nodes.  Where a group has several members in each of several nodes, its
        collective is made of those inside nodes (I seconds) and those between members in the same
        place (O), as NCCL does it: an all-reduce is a reduce-scatter inside, an all-reduce of
        each part between, an all-gather inside.  Large messages go through both in pieces, side
        by side, so the slower one counts and of the other only its start (I₀, O₀: no bytes):

            max(I + O₀, O + I₀)

        A last node that is not full counts as full.
        """
        assert devices >= 1, devices
        assert stride >= 1, stride
        inside = min(devices, ceil_div(self.per_node, stride))
        nodes = ceil_div(devices, inside)
        if nodes == 1:
            return self.inner.seconds(collective, devices, size_bytes)
        if inside == 1:
            return self.outer.seconds(collective, devices, size_bytes)
        kind = find_collective(collective)
        within = _Level(kind.within, self.inner, inside, inside, nodes)
        between = _Level(kind.between, self.outer, nodes, inside, nodes)
        return max(
            within.seconds(size_bytes) + between.seconds(0),
            between.seconds(size_bytes) + within.seconds(0),
        )


@dataclass(frozen=True, slots=True)
class _Level:
    """Stages that follow one another over one fabric, among `devices`."""

    stages: Sequence[Stage]
    fabric: Fabric
    devices: int
    inner: int
    nodes: int

    def seconds(self, size: float) -> float:
        return sum(
            self.fabric.seconds(
                stage.collective, self.devices, size * stage.share(self.inner, self.nodes)
            )
            for stage in self.stages
        )
