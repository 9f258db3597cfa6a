"""Which policy an engine runs under."""

from __future__ import annotations

from ellm.core.config import SchedulerConfig, SchedulingPolicy
from ellm.core.objectives import Objectives
from ellm.scheduling.cost import StepCost
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
