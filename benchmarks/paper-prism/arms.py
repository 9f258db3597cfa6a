"""Ways of dividing the memory of a device between its models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from household import LOAD_BANDWIDTH, PLAIN, Lodger, shape_model
from swapping import OneAtATime

from ellm.core.config import MemoryConfig, MemoryMode
from ellm.core.errors import BudgetError
from ellm.core.units import ceil_div
from ellm.memory.budget import default_budget
from ellm.sim.deployment import CHUNK_BYTES
from ellm.sim.devices.device import Device, Overhead
from ellm.sim.devices.known import find_device
from ellm.sim.household import Household, Member
from ellm.sim.placement import Demand, crowded, housed
from ellm.sim.replay import SimModel

NO_OVERHEAD = Overhead(
    step=0, layer=0, sequence=0, request=0, completion=0, prompt_token=0, output_token=0
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """`fixed` shares; weights that `stay`; models that `swap`; or none of it, where all is lent."""

    fixed: bool = False
    stay: bool = False
    swap: bool = False


ARMS: Mapping[str, Arm] = {
    "elastic": Arm(),
    "static": Arm(fixed=True),
    "shared KV": Arm(stay=True),
    "one at a time": Arm(swap=True),
}


def places(arm: Arm, models: Sequence[Lodger], device: Device, count: int) -> list[list[int]]:
    """Which models are on which of `count` devices.

    As many as fit with one context each, and the others too where weights may go.  They are loaded
    in that order, so that those who are asked most are there in the beginning.
    """
    demands, room = (
        [Demand(least(m, arm.fixed), m.rate) for m in models],
        default_budget(device.memory),
    )
    place = housed if arm.fixed or arm.stay else crowded
    return place(demands, count, room)


def opened(arm: Arm, models: Sequence[Lodger], device: Device, scale: float) -> Household:
    """Those of one device, loaded; objectives are `scale` times what each takes alone."""
    budget = default_budget(device.memory)
    memory = MemoryConfig(budget=budget, chunk_bytes=CHUNK_BYTES, mode=_mode(arm.fixed))
    shares = fixed_shares(models, budget) if arm.fixed else None
    members = []
    for place, model in enumerate(models):
        floor = _chunks(model.model.weight_bytes) * CHUNK_BYTES if arm.stay else 0
        share = None if shares is None else shares[place]
        members.append(
            Member(
                name=model.name,
                model=model.model,
                limits=model.limits(scale),
                floor=floor if share is None else share,
                ceiling=share,
            )
        )
    home = Household(members, memory, device.overhead, LOAD_BANDWIDTH)
    if arm.swap:
        home.gate = OneAtATime(home.fleet, lambda: home.now)
    return home


def fixed_shares(models: Sequence[Lodger], budget: int) -> list[int]:
    """What each needs at least, and of the rest in proportion to the KV its requests hold."""
    needs = [least(model, fixed=True) for model in models]
    rest = budget // CHUNK_BYTES - sum(needs) // CHUNK_BYTES
    demand = sum(model.demand for model in models) or 1.0
    return [
        need + int(rest * model.demand / demand) * CHUNK_BYTES
        for need, model in zip(needs, models, strict=True)
    ]


def least(model: Lodger, fixed: bool) -> int:
    """Bytes with which a model of its own device could just serve one whole context."""
    return _least(model.shape, model.device, fixed)


@cache
def _least(shape: str, device: str, fixed: bool) -> int:
    model = shape_model(shape, device)
    low, high = _chunks(model.weight_bytes), _chunks(find_device(device).memory)
    while low < high:
        middle = (low + high) // 2
        if _starts(model, fixed, middle * CHUNK_BYTES):
            high = middle
        else:
            low = middle + 1
    return low * CHUNK_BYTES


def _starts(model: SimModel, fixed: bool, budget: int) -> bool:
    memory = MemoryConfig(budget=budget, chunk_bytes=CHUNK_BYTES, mode=_mode(fixed))
    try:
        Household([Member(name="", model=model, limits=PLAIN)], memory, NO_OVERHEAD, 1e12)
    except BudgetError:
        return False
    return True


def _mode(fixed: bool) -> MemoryMode:
    return MemoryMode.STATIC if fixed else MemoryMode.ELASTIC


def _chunks(size: int) -> int:
    return ceil_div(size, CHUNK_BYTES)
