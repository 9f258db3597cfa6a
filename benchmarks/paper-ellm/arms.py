"""What is compared, and on what: Llama-3-8B with 262144 tokens of context on one A100."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from unittest.mock import patch

from ellm.core.config import (
    ALL_PARTS,
    ElasticPart,
    MemoryConfig,
    MemoryMode,
    SchedulerConfig,
    SchedulingPolicy,
)
from ellm.core.objectives import Objectives
from ellm.core.units import GIB
from ellm.sim.anatomy.shapes import find_transformer
from ellm.sim.anatomy.transformer import Transformer
from ellm.sim.deployment import Deployment
from ellm.sim.devices.known import find_device

MODEL = find_transformer("llama-3-8b-262k")
CONTEXT = MODEL.max_positions
# What pinned memory gives over PCI Express 4.0 x 16, whose peak the catalogue has.
DEVICE = replace(find_device("A100-80GB"), host_bandwidth=25e9)
TIER = 256 * GIB
# vLLM's defaults: sequences at once; tokens of a step with chunked prompts, in v0.5.5 and later.
MOST_SEQUENCES = 256
SMALL_CHUNK, CHUNK = 512, 2048

_STATIC, _ELASTIC = MemoryMode.STATIC, MemoryMode.ELASTIC
_SLO = SchedulingPolicy.SLO


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """`chunk` is the most tokens of a step.  None: prompts in one piece where shares are fixed, as
    memory and time allow where they are not.

    `constants` of ellm.scheduling have other values, by module and name.
    """

    mode: MemoryMode = _ELASTIC
    chunk: int | None = None
    tier: bool = False
    policy: SchedulingPolicy = SchedulingPolicy.FCFS
    parts: frozenset[ElasticPart] = ALL_PARTS
    constants: Mapping[str, int] = field(default_factory=dict)

    def deployment(
        self, wished: Objectives, context: int = CONTEXT, model: Transformer = MODEL
    ) -> Deployment:
        """The device with 0.9 of its memory in use, vLLM's default and ours."""
        tier = TIER if self.tier else 0
        return Deployment.by_roofline(
            model,
            DEVICE,
            memory=MemoryConfig(mode=self.mode, offload_bytes=tier, parts=self.parts),
            limits=SchedulerConfig(
                max_num_seqs=MOST_SEQUENCES,
                max_num_batched_tokens=self.chunk,
                chunked_prefill=self.mode is _ELASTIC or self.chunk is not None,
                max_model_len=context,
                policy=self.policy,
                ttft_slo=wished.ttft,
                tpot_slo=wished.tpot,
            ),
        )

    @contextmanager
    def changed(self) -> Iterator[None]:
        """While its constants have their other values."""
        with ExitStack() as stack:
            for name, value in self.constants.items():
                stack.enter_context(patch(f"ellm.scheduling.{name}", value))
            yield


STATIC = Arm(mode=_STATIC)
CHUNKED = Arm(mode=_STATIC, chunk=CHUNK)
ELASTIC = Arm()
TIERED = Arm(tier=True)
# Who fits, and how fast they decode: nobody has an objective.
MEMORIES = {
    "static": STATIC,
    "static+chunked": CHUNKED,
    "elastic": ELASTIC,
    "elastic+tier": TIERED,
}
# Who is served in time.
ARMS = {
    "static": STATIC,
    "static+chunked": CHUNKED,
    "static+chunked, 512": replace(CHUNKED, chunk=SMALL_CHUNK),
    "static+chunked+slo": replace(CHUNKED, policy=_SLO),
    "elastic": ELASTIC,
    "elastic+slo": replace(ELASTIC, policy=_SLO),
    "elastic+tier": TIERED,
    "elastic+tier+slo": replace(TIERED, policy=_SLO),
}
OURS = "elastic+tier+slo"

_FULL = ARMS[OURS]
_BUFFER, _LEAST = "logical_buffer", "choose.SMALLEST_SHARE"
ABLATIONS = {
    "all parts": _FULL,
    **{f"without {part.value}": replace(_FULL, parts=ALL_PARTS - {part}) for part in ElasticPart},
    "without all of them": replace(_FULL, parts=frozenset()),
    "without logical buffer": replace(_FULL, constants={_LEAST: 1}),
    "alpha 4": replace(_FULL, constants={f"{_BUFFER}.FACTOR": 4}),
    "5 of 5": replace(_FULL, constants={f"{_BUFFER}.BREACHES": 5}),
    "6 of 10": replace(_FULL, constants={f"{_BUFFER}.WINDOW": 10, f"{_BUFFER}.BREACHES": 6}),
}
