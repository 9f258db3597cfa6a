"""Models and machines of the paper, and what is asked of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ellm.core.config import MemoryConfig, SchedulerConfig
from ellm.core.objectives import Objectives
from ellm.core.units import GIB
from ellm.sim.anatomy.shapes import find_transformer
from ellm.sim.deployment import Deployment
from ellm.sim.devices.known import find_device
from ellm.sim.parallel.plan import uniform
from ellm.sim.workload.arrivals import arrivals, timed
from ellm.sim.workload.item import Item
from ellm.sim.workload.lengths import SHAREGPT, drawn, fixed

# The paper's objectives.
WISHED = Objectives(ttft=3.0, tpot=0.2)
L20 = find_device("l20")
# Of a device's memory, vLLM's default.
MEMORY_SHARE = 0.9
# Host memory for each device.
TIER_BYTES = 256 * GIB
OUTPUT = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """`devices` L20 share each of a model's layers.  Prompts of each of `contexts` come `rate` a
    second; conversations come at each of `rates`."""

    model: str
    devices: int
    rate: float
    rates: Sequence[float]
    contexts: Sequence[int]

    @property
    def budget(self) -> int:
        return int(MEMORY_SHARE * L20.memory)

    def deployment(self, memory: MemoryConfig, limits: SchedulerConfig) -> Deployment:
        model = find_transformer(self.model)
        plan = uniform(model, tensor=self.devices)
        return Deployment.by_roofline(model, L20, plan=plan, memory=memory, limits=limits)


SETTINGS = {
    "7b": Setting(
        model="llama-2-7b",
        devices=1,
        rate=0.7,
        rates=(5.0, 5.5, 5.75, 6.0, 7.0),
        contexts=(1024, 2048, 2304, 2560, 3072, 4096),
    ),
    "34b": Setting(
        model="yi-34b-200k",
        devices=2,
        rate=0.35,
        rates=(4.0, 4.5, 5.0, 6.0),
        contexts=(2048, 3072, 3584, 4096),
    ),
    "70b": Setting(
        model="llama-3.1-70b",
        devices=4,
        rate=0.3,
        rates=(4.0, 5.0, 6.0),
        contexts=(1024, 2048, 4096),
    ),
}


def prompts(count: int, context: int, rate: float, seed: int) -> list[Item]:
    """`count` prompts of one length, and answers of `OUTPUT` tokens, at random times."""
    return timed(fixed(count, context, OUTPUT), arrivals(count, rate, seed))


def conversations(seconds: float, rate: float, seed: int) -> list[Item]:
    """With the lengths of ShareGPT, for about so many seconds."""
    count = round(rate * seconds)
    return timed(drawn(count, *SHAREGPT, seed=seed), arrivals(count, rate, seed))
