"""What a collective is: how much it moves, in how many steps, and how nodes share it out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ellm.core.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Stage:
    """A collective that is a part of a larger one.

    `share` of the larger message is this one's message, given how many members share a node and
    how many nodes there are.
    """

    collective: str
    share: Callable[[int, int], float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Collective:
    """One kind of exchange among n devices.

    name        as in `all_reduce`
    bus_factor  bytes that each device sends, by byte of the message, given n; the message is what
                nccl-tests prints as size (https://github.com/NVIDIA/nccl-tests/blob/master/doc/PERFORMANCE.md)
    steps       sends that must follow one another, given n
    within      what the members of one node do when the group spans nodes, one after the other
    between     what members in the same place of different nodes do
    like        the collective that stands in where a fabric has no measurements of this one
    """

    name: str
    bus_factor: Callable[[int], float]
    steps: Callable[[int], int]
    within: tuple[Stage, ...]
    between: tuple[Stage, ...]
    like: str | None = None


REGISTERED: dict[str, Collective] = {}


def register(collective: Collective) -> None:
    """Make it known by its name.  Raises ConfigError when the name is taken."""
    if collective.name in REGISTERED:
        raise ConfigError(f"there is a collective {collective.name} already: choose another name")
    REGISTERED[collective.name] = collective


def whole(inner: int, nodes: int) -> float:
    """The stage handles the whole message."""
    return 1.0


def one_of_inner(inner: int, nodes: int) -> float:
    """Each member of a node handles its own part."""
    return 1 / inner


def one_of_nodes(inner: int, nodes: int) -> float:
    """The stage handles what is meant for one of the nodes."""
    return 1 / nodes


def doublings(devices: int) -> int:
    """How often one must double to reach `devices`."""
    return (devices - 1).bit_length()
