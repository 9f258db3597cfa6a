"""What is compared: what of a prompt's KV must fit before it starts, and who goes first."""

from __future__ import annotations

from dataclasses import dataclass

from settings import TIER_BYTES, Setting

from ellm.core.config import (
    ALL_PARTS,
    ElasticPart,
    MemoryConfig,
    MemoryMode,
    SchedulerConfig,
    SchedulingPolicy,
)
from ellm.core.objectives import Objectives
from ellm.sim.deployment import Deployment


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """`aims`: the scheduler knows the objectives.  A static memory has no tier."""

    mode: MemoryMode
    policy: SchedulingPolicy
    aims: bool
    chunked: bool = True
    parts: frozenset[ElasticPart] = ALL_PARTS

    def deployment(self, setting: Setting, context: int, wished: Objectives) -> Deployment:
        """For contexts of at most `context` tokens."""
        memory = MemoryConfig(
            budget=setting.budget,
            mode=self.mode,
            offload_bytes=TIER_BYTES if self.mode is MemoryMode.ELASTIC else 0,
            parts=self.parts,
        )
        limits = SchedulerConfig(
            max_num_seqs=256,
            chunked_prefill=self.chunked,
            max_model_len=context,
            policy=self.policy,
            ttft_slo=wished.ttft if self.aims else None,
            tpot_slo=wished.tpot if self.aims else None,
        )
        return setting.deployment(memory, limits)


_STATIC, _ELASTIC = MemoryMode.STATIC, MemoryMode.ELASTIC
_FCFS, _SLO = SchedulingPolicy.FCFS, SchedulingPolicy.SLO
ARMS = {
    # vLLM 0.5.5 as the paper has it: shares fixed by a profiling run, prompts in one piece.
    "request-wise": Arm(mode=_STATIC, policy=_FCFS, aims=False, chunked=False),
    # The policy divides prompts, so that it is to be had with chunks only.
    "request-wise+slo": Arm(mode=_STATIC, policy=_SLO, aims=True),
    "layer-wise+slo": Arm(mode=_ELASTIC, policy=_SLO, aims=True),
    # What is left of it where whole requests go below, and no single layers.
    "parking+slo": Arm(
        mode=_ELASTIC, policy=_SLO, aims=True, parts=ALL_PARTS - {ElasticPart.LAYERS}
    ),
}
OURS = "layer-wise+slo"
THEIRS = "request-wise"
