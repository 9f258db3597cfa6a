"""What is compared: who gets how much memory for KV, and when."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from reserving import ReservingEngine, Rule

from ellm.core.config import KvLayout, MemoryConfig, MemoryMode, SchedulerConfig
from ellm.core.units import ceil_div
from ellm.engine.engine import Engine
from ellm.engine.fit import largest_step
from ellm.sim.anatomy.formats import Formats
from ellm.sim.anatomy.shapes import find_transformer
from ellm.sim.deployment import CHUNK_BYTES, Deployment
from ellm.sim.devices.known import find_device
from ellm.sim.parallel.footprint import Footprint
from ellm.sim.parallel.plan import uniform

# Table 1 of the paper: the tokens whose KV fits beside OPT-13B.
SLOTS = 15_700
CONTEXT = 2048
OPT = find_transformer("opt-13b")
FORMATS = Formats(weights="fp16", kv="fp16", activations="fp16")
A100 = find_device("a100-40gb")
# Prompts go whole into the step after they are let in, as in Orca and the vLLM of then.
LIMITS = SchedulerConfig(
    max_num_seqs=256, chunked_prefill=False, max_num_batched_tokens=CONTEXT, max_model_len=CONTEXT
)


def _up_to_the_context(prompt: int, answer: int) -> int:
    return CONTEXT


def _a_power_of_two(prompt: int, answer: int) -> int:
    """Answers of 25 get 32."""
    return min(CONTEXT, prompt + (1 << max(0, answer - 1).bit_length()))


def _what_will_be(prompt: int, answer: int) -> int:
    return prompt + answer


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """With a `rule`, memory is reserved when a request is let in; without, as it grows."""

    mode: MemoryMode = MemoryMode.STATIC
    layout: KvLayout = KvLayout.CONTIGUOUS
    rule: Rule | None = None
    tier: int = 0

    def deployment(self) -> Deployment:
        plain = Deployment.by_roofline(OPT, A100, formats=FORMATS, limits=LIMITS)
        memory = MemoryConfig(budget=budget(), layout=self.layout, mode=self.mode)
        return replace(plain, memory=memory, engine=self._engine())

    def _engine(self) -> Callable[..., Engine]:
        return Engine if self.rule is None else partial(ReservingEngine, self.rule, SLOTS)


def budget() -> int:
    """Bytes that leave `SLOTS` tokens of KV beside fixed shares of weights and activations."""
    footprint = Footprint.of(OPT, uniform(OPT), FORMATS)
    step = footprint.activations(largest_step(LIMITS, gathers=True))
    parts = (footprint.weight_bytes, step, SLOTS * footprint.token_bytes)
    return CHUNK_BYTES * sum(ceil_div(part, CHUNK_BYTES) for part in parts)


CONTENDERS = {
    "orca-max": Contender(rule=_up_to_the_context),
    "orca-pow2": Contender(rule=_a_power_of_two),
    "orca-oracle": Contender(rule=_what_will_be),
    "paged": Contender(layout=KvLayout.PAGED),
    "contiguous": Contender(),
    "ellm": Contender(mode=MemoryMode.ELASTIC),
}
