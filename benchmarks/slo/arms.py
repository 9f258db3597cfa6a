"""What is compared: how memory is divided, and who goes first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from settings import Setting

from ellm.core.config import MemoryConfig, MemoryMode, SchedulerConfig, SchedulingPolicy
from ellm.core.objectives import Objectives


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

    def arguments(self, setting: Setting, wished: Objectives, weights: int) -> dict[str, Any]:
        """The same in `EngineArgs`, for a model with `weights` bytes."""
        return {
            "memory": setting.room + weights,
            "chunk_bytes": setting.chunk,
            "memory_mode": self.mode.value,
            "enable_chunked_prefill": self.chunked,
            "kv_offloading_size": setting.tier if self.tier else None,
            "max_num_seqs": setting.max_num_seqs,
            "max_model_len": setting.context,
            "scheduling_policy": self.policy.value,
            "ttft_slo": wished.ttft,
            "tpot_slo": wished.tpot,
        }


_STATIC, _ELASTIC = MemoryMode.STATIC, MemoryMode.ELASTIC
_SLO = SchedulingPolicy.SLO
# The static ones divide memory, and order requests, as engines without elastic memory do.
ARMS = {
    "static": Arm(mode=_STATIC, chunked=False),
    "static+chunked": Arm(mode=_STATIC),
    "static+chunked+slo": Arm(mode=_STATIC, policy=_SLO),
    "elastic": Arm(mode=_ELASTIC, policy=_SLO),
    "elastic+tier": Arm(mode=_ELASTIC, policy=_SLO, tier=True),
}
