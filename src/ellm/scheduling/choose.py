"""Which policy an engine runs under, and whether some make way for others."""

from __future__ import annotations

from typing import Any

from ellm.core.config import SchedulerConfig, SchedulingPolicy
from ellm.core.objectives import Objectives
from ellm.kv.manager import KvManager
from ellm.scheduling.cost import StepCost
from ellm.scheduling.displacement import Displacement
from ellm.scheduling.fcfs import FcfsPolicy
from ellm.scheduling.logical_buffer import LogicalBuffer
from ellm.scheduling.policy import Policy
from ellm.scheduling.slo import SloPolicy

# What newcomers may fill of the tier at the worst of times.
SMALLEST_SHARE = 16


def choose_policy(config: SchedulerConfig, cost: StepCost, bytes_below: int) -> Policy:
    """The policy that `config` names; `bytes_below` is the size of the tier, 0 for none."""
    if config.policy is SchedulingPolicy.FCFS:
        return FcfsPolicy(config.step_tokens)
    buffer = LogicalBuffer(bytes_below, bytes_below // SMALLEST_SHARE) if bytes_below else None
    return SloPolicy(Objectives(ttft=config.ttft_slo, tpot=config.tpot_slo), cost, buffer)


def choose_displacement(policy: Policy, kv: KvManager[Any], cost: StepCost) -> Displacement | None:
    """Who makes way under `policy` where there is a tier below; None where objectives are none."""
    return Displacement(kv, policy, cost) if isinstance(policy, SloPolicy) else None
