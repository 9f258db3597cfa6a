"""What is asked of a server, and how it was started."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ellm.sim.workload.arrivals import arrivals, timed
from ellm.sim.workload.item import Item
from ellm.sim.workload.lengths import LogNormal, drawn
from ellm.sim.workload.traces import read_trace
from harness import traces
from harness.random_llama import LLAMA_1B, LLAMA_168M

AZURE = "azure/AzureLLMInferenceTrace_conv.csv"
# Tokens of the shortest prompts and answers.
SHORTEST = 8
# Conversations that begin alike: how many beginnings, and of how many blocks of tokens.
BEGINNINGS, BLOCKS, BLOCK_TOKENS = 6, 8, 32


@dataclass(frozen=True, slots=True)
class Lengths:
    """Prompts and answers: their mean, their spread, and the longest there are."""

    prompt: float
    output: float
    deviation: float = 0.8
    longest: int = 1024

    def items(self, count: int, seed: int) -> list[Item]:
        prompt = LogNormal(self.prompt, self.deviation, SHORTEST, self.longest)
        output = LogNormal(self.output, self.deviation, SHORTEST, self.longest)
        return drawn(count, prompt, output, seed)


@dataclass(frozen=True, slots=True)
class Workload:
    """`count` requests, `rate` a second, to a server with these arguments of EngineArgs.

    `divide` divides the lengths of Azure's trace, whose own gaps are kept in proportion.
    """

    name: str
    rate: float
    count: int
    lengths: Lengths | None = None
    divide: float | None = None
    burstiness: float = 1.0
    alike: bool = False
    args: Mapping[str, Any] = field(default_factory=dict)

    def items(self, seed: int) -> Sequence[Item]:
        if self.divide is not None:
            return self._recorded()
        assert self.lengths is not None, self.name
        items = self.lengths.items(self.count, seed)
        if self.alike:
            items = _alike(items, seed)
        return timed(items, arrivals(self.count, self.rate, seed, self.burstiness))

    def _recorded(self) -> Sequence[Item]:
        """The beginning of Azure's trace, at the rate asked for."""
        assert self.divide is not None
        found = read_trace(traces.find(AZURE), self.count, scale=1 / self.divide).items
        pace = found[-1].arrival / (self.count - 1) * self.rate
        return [replace(item, arrival=item.arrival / pace) for item in found]


def _alike(items: Sequence[Item], seed: int) -> list[Item]:
    """Each behind one of a few beginnings."""
    rng = random.Random(seed)
    found = []
    for item in items:
        beginning = rng.randrange(BEGINNINGS) * BLOCKS
        blocks = tuple(range(beginning, beginning + BLOCKS))
        prompt = item.prompt_tokens + BLOCKS * BLOCK_TOKENS
        found.append(replace(item, prompt_tokens=prompt, blocks=blocks, block_tokens=BLOCK_TOKENS))
    return found


@dataclass(frozen=True, slots=True)
class Model:
    """One that is served and simulated: what `--model` takes, and its workloads.  A `dummy` has its
    weights made up."""

    path: str
    context: int
    workloads: Sequence[Workload]
    dummy: bool = False

    def arguments(self, threads: int, device: str) -> dict[str, Any]:
        """What `EngineArgs(**…)` takes, beside what a workload wants."""
        return {
            "model": self.path,
            "threads": threads,
            "device": device,
            "max_model_len": self.context,
            **({"load_format": "dummy"} if self.dummy else {}),
        }


def _workloads(
    chat: float, chats: int, long: float, memory: str, divide: float, objectives: Mapping[str, str]
) -> tuple[Workload, ...]:
    """`chat` requests a second keep the model busy for three quarters of the time, and so do
    `long` of long prompts."""
    short = Lengths(96, 48)
    # Few sequences fit, and those that run outgrow it.
    growing = Lengths(96, 160, 0.5, 480)
    small = {"memory": memory, "max_model_len": 1024}
    below = {**small, "kv_offloading_size": "1GiB"}
    alone = {"enable_prefix_caching": False}
    half = chats // 2
    return (
        Workload("light", chat / 3, half, short),
        Workload("steady", chat, chats, short),
        Workload("paged", chat, chats, short, args={"kv_layout": "paged"}),
        Workload("overload", 2 * chat, chats, short),
        Workload("objectives", 1.5 * chat, chats, short, args=objectives),
        Workload("long prompts", long, half, Lengths(384, 32, 0.5, 1536)),
        Workload("long answers", chat / 4, chats // 4, Lengths(24, 320, 0.3)),
        Workload("short of memory", chat / 3, half, growing, burstiness=0.3, args=small),
        Workload("parked below", chat / 3, half, growing, burstiness=0.3, args=below),
        Workload("alike", chat / 2, half, short, alike=True),
        Workload("alike, not shared", chat / 2, half, short, alike=True, args=alone),
        Workload("azure", chat, chats, divide=divide),
        Workload("steady again", chat, chats, short),
    )


MODELS = ("bundled", "168m", "1b")


def model_of(name: str) -> Model:
    """By the names of the benchmark's arms."""
    if name == "bundled":
        fast = {"ttft_slo": "200ms", "tpot_slo": "10ms"}
        return Model("ellm-base", 2048, _workloads(18.0, 180, 9.0, "29MiB", 10.0, fast))
    if name == "168m":
        slow = {"ttft_slo": "2s", "tpot_slo": "80ms"}
        path = str(LLAMA_168M.cached())
        return Model(path, 2048, _workloads(2.4, 48, 1.2, "337MiB", 10.0, slow))
    assert name == "1b", name
    wanted = {"ttft_slo": "100ms", "tpot_slo": "5ms"}
    path = str(LLAMA_1B.described())
    workloads = _workloads(40.0, 400, 20.0, "2250MiB", 10.0, wanted)
    return Model(path, 2048, workloads, dummy=True)
