"""What is compared: how memory is divided, and who goes first."""

from __future__ import annotations

from dataclasses import dataclass

from ellm.core.config import MemoryConfig, MemoryMode, SchedulerConfig, SchedulingPolicy
from ellm.core.objectives import Objectives
from settings import Setting


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    mode: MemoryMode
    chunked: bool = True
    tier: bool = False
    policy: SchedulingPolicy = SchedulingPolicy.FCFS

    def memory(self, setting: Setting) -> MemoryConfig:
        return MemoryConfig(
            budget=setting.room,
            chunk_bytes=setting.chunk,
            mode=self.mode,
            offload_bytes=setting.tier if self.tier else 0,
        )

    def scheduler(self, setting: Setting, wished: Objectives) -> SchedulerConfig:
        return SchedulerConfig(
            max_num_seqs=setting.max_num_seqs,
            chunked_prefill=self.chunked,
            max_model_len=setting.context,
            policy=self.policy,
            ttft_slo=wished.ttft,
            tpot_slo=wished.tpot,
        )


_STATIC, _ELASTIC = MemoryMode.STATIC, MemoryMode.ELASTIC
_SLO = SchedulingPolicy.SLO
ARMS = {
    "static": Arm(mode=_STATIC, chunked=False),
    "static+chunked": Arm(mode=_STATIC),
    "static+chunked+slo": Arm(mode=_STATIC, policy=_SLO),
    "elastic+fcfs": Arm(mode=_ELASTIC),
    "elastic": Arm(mode=_ELASTIC, policy=_SLO),
    "elastic+tier": Arm(mode=_ELASTIC, tier=True, policy=_SLO),
}
