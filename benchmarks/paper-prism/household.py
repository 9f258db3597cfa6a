"""Which models are served, what each takes alone, and what they are asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

from ellm.core.config import SchedulerConfig, SchedulingPolicy
from ellm.core.load import StepLoad
from ellm.core.objectives import Objectives
from ellm.obs.spread import percentile
from ellm.sim.anatomy.shapes import find_transformer
from ellm.sim.deployment import Deployment
from ellm.sim.devices.device import Device
from ellm.sim.devices.known import find_device
from ellm.sim.replay import SimModel
from ellm.sim.workload.arrivals import hastened
from ellm.sim.workload.item import Item
from ellm.sim.workload.traces import read_trace
from harness import traces

TRACE = "multimodel-prism/real_trace_27models.csv"
MODELS, REQUESTS = 27, 1500
# The longest prompt with its answer has 1998 tokens.
CONTEXT = 2048
SEQUENCES = 256
# In turn for the 27: six of 1 to 1.5 thousand million parameters, nine of 3, nine of 7 to 8, three
# of 14.
SHAPES = (
    "llama-3.1-8b",
    "llama-3.2-1b",
    "llama-3.2-3b",
    "qwen2.5-7b",
    "qwen2.5-1.5b",
    "qwen2.5-14b",
    "llama-3.1-8b",
    "qwen2.5-3b",
    "llama-3.2-3b",
)
# Prism brings 16 GB of weights from host memory in 0.7 s and 29.5 GB in 1.3 s (its figure 10).
LOAD_BANDWIDTH = 22.5e9


@dataclass(frozen=True, slots=True)
class Lodger:
    """A model of the trace: `alone` is what 95 of 100 of its requests take at most with nobody
    else there, `rate` its requests a second and `demand` the bytes of KV they hold on average, to
    a factor that all share, both as recorded."""

    name: str
    shape: str
    device: str
    model: SimModel
    alone: Objectives
    rate: float
    demand: float

    def wished(self, scale: float) -> Objectives:
        assert self.alone.ttft is not None
        assert self.alone.tpot is not None
        return Objectives(ttft=scale * self.alone.ttft, tpot=scale * self.alone.tpot)

    def limits(self, scale: float) -> SchedulerConfig:
        wished = self.wished(scale)
        return SchedulerConfig(
            max_num_seqs=SEQUENCES,
            max_model_len=CONTEXT,
            policy=SchedulingPolicy.SLO,
            ttft_slo=wished.ttft,
            tpot_slo=wished.tpot,
        )


def workload(count: int, speed: float = 1.0) -> list[Item]:
    """The first `count` requests of the trace, `speed` times as fast."""
    return hastened(read_trace(traces.find(TRACE), count).items, speed)


PLAIN = SchedulerConfig(max_num_seqs=SEQUENCES, max_model_len=CONTEXT)


@cache
def shape_model(shape: str, device: str) -> SimModel:
    return Deployment.by_roofline(find_transformer(shape), find_device(device), limits=PLAIN).sole()


def lodgers(name: str) -> list[Lodger]:
    """All models, on the device of that name; what they are asked is that of the whole trace."""
    device = find_device(name)
    items = workload(REQUESTS)
    duration = items[-1].arrival
    found = []
    for number in range(MODELS):
        shape = SHAPES[number % len(SHAPES)]
        model = shape_model(shape, name)
        own = [item for item in items if item.model == number]
        token = sum(layer.token_bytes for layer in model.layers)
        found.append(
            Lodger(
                name=f"model-{number:02}",
                shape=shape,
                device=name,
                model=model,
                alone=alone(model, own, device),
                rate=len(own) / duration,
                demand=token * sum(_held(item) for item in own),
            )
        )
    return found


def _held(item: Item) -> float:
    """Tokens of KV times tokens of time that a request holds."""
    return item.output_tokens * (item.prompt_tokens + item.output_tokens / 2)


def alone(model: SimModel, items: Sequence[Item], device: Device) -> Objectives:
    """Times that 95 of 100 of `items` keep, one at a time on a device: what the simulator gives
    then too, without taking the steps one by one."""
    over, firsts, paces = device.overhead, [], []
    for item in items:
        prompt = model.cost.seconds(StepLoad.of([(item.prompt_tokens, 0)]))
        sent = over.request + over.prompt_token * item.prompt_tokens + over.output_token
        firsts.append(sent + prompt)
        middle = item.prompt_tokens + item.output_tokens // 2
        paces.append(model.cost.seconds(StepLoad.of([(1, middle)])))
    return Objectives(ttft=percentile(firsts, 0.95), tpot=percentile(paces, 0.95))


def of_models(items: Sequence[Item], numbers: Sequence[int]) -> list[Item]:
    """The items of some of the models, which are numbered anew."""
    places = {number: place for place, number in enumerate(numbers)}
    return [replace(item, model=places[item.model]) for item in items if item.model in places]
