"""What a device must hold before anything is served."""

from __future__ import annotations

from dataclasses import dataclass

from ellm.core.units import ceil_div
from ellm.engine.fit import smallest_step
from ellm.planner.case import Case
from ellm.sim.parallel.footprint import Footprint
from ellm.sim.parallel.plan import Plan


@dataclass(frozen=True, slots=True)
class Need:
    """Bytes of the fullest device, by the engine's accounts but for chunks that are not full.

    weights   its part of the model
    states    of as many sequences as may run (recurrent layers)
    kv        of one sequence of the longest context, for each lane that shares the device
    step      activations of the smallest step that such a sequence can take, likewise
    budget    what the device has
    token     KV of one token
    """

    weights: int
    states: int
    kv: int
    step: int
    budget: int
    token: int

    @classmethod
    def of(cls, case: Case, plan: Plan) -> Need:
        """Quick: times of steps are not asked for."""
        footprint = Footprint.of(case.transformer, plan, case.formats)
        lanes, context = plan.stages, case.limits.max_model_len
        sequences = ceil_div(case.limits.max_num_seqs, lanes)
        return cls(
            weights=footprint.weight_bytes,
            states=footprint.state_bytes * sequences,
            kv=lanes * footprint.token_bytes * context,
            step=lanes * footprint.activations(smallest_step(context, gathers=False)),
            budget=case.budget,
            token=footprint.token_bytes,
        )

    @property
    def total(self) -> int:
        return self.weights + self.states + self.kv + self.step

    @property
    def room(self) -> int:
        """Bytes for KV and activations of all lanes; negative where weights do not fit."""
        return self.budget - self.weights - self.states

    @property
    def is_too_much(self) -> bool:
        """Whether it cannot fit; otherwise it may, and the engine knows."""
        return self.total > self.budget


def fits(case: Case, plan: Plan) -> bool:
    """Whether the engine itself would start on that plan."""
    return not Need.of(case, plan).is_too_much and case.deployment(plan).fits()
