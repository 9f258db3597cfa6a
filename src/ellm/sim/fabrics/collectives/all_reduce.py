"""Everybody gets the sum of everybody's message.  Size: one device's message.

A ring takes 2 (n - 1) steps; up and down a tree takes 2 log2 n, each of which costs about two of
the ring's (https://github.com/NVIDIA/nccl, src/graph/tuning.cc: 5.0 and 2.7 µs over a network).
The library takes what is quicker.
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


def bus_factor(devices: int) -> float:
    return 2 * (devices - 1) / devices


def steps(devices: int) -> int:
    return min(2 * (devices - 1), 4 * doublings(devices))


WITHIN = (Stage("reduce_scatter", whole), Stage("all_gather", whole))
BETWEEN = (Stage("all_reduce", one_of_inner),)

register(
    Collective(
        name="all_reduce", bus_factor=bus_factor, steps=steps, within=WITHIN, between=BETWEEN
    )
)
