"""Prompts that are answered without being computed, in the time that computing them would take.

What is measured is memory and decoding, and a prompt of 32 thousand tokens takes two cores a
minute.  Scheduling and every memory operation of such a step are real; the KV rows hold whatever
was there; the engine's clock jumps ahead by what the computation would have cost, so that a policy
that weighs time against memory weighs real times.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ellm.core.clock import MonotonicClock
from ellm.core.executor import Executor, Ferry, Flight, Landed
from ellm.core.load import StepLoad
from ellm.core.plan import SequenceStep, StepPlan, StepShape
from ellm.core.result import SequenceResult, StepResult

# What two cores with AVX-512 BF16 make of the products of a long prompt.
FLOPS = 4e11
ANSWER = 7


class SkippingClock:
    """The machine's clock, and what `skip` has added to it."""

    def __init__(self) -> None:
        self._clock = MonotonicClock()
        self.skipped = 0.0

    def now(self) -> float:
        return self._clock.now() + self.skipped

    def skip(self, seconds: float) -> None:
        self.skipped += seconds


@dataclass(frozen=True, slots=True)
class Work:
    """What a step costs: `parameters` a token, `attention_width` (layers × query width) a pair, on
    a device of so many operations a second; where its `bandwidth` is known, at least what it takes
    to read weights and KV of `token_bytes` a token."""

    parameters: int
    attention_width: int
    flops: float = FLOPS
    token_bytes: int = 0
    bandwidth: float = math.inf

    def seconds(self, load: StepLoad) -> float:
        flop = 2 * self.parameters * load.tokens + 4 * self.attention_width * load.attention
        read = 2 * self.parameters + self.token_bytes * load.kv_tokens
        return max(flop / self.flops, read / self.bandwidth) if load.tokens else 0.0


class SkippedPrefill:
    """An executor around `inner`, of so many layers.

    While `rehearsing` it computes nothing, while `computing` everything.
    """

    def __init__(self, inner: Executor, clock: SkippingClock, work: Work, layers: int) -> None:
        self.inner = inner
        self._layers = layers
        self._clock = clock
        self._work = work
        self.rehearsing = True
        self.computing = False
        self.decoding = 0
        self.prefilling = 0

    def activation_bytes(self, shape: StepShape) -> int:
        return self.inner.activation_bytes(shape)

    @property
    def ahead(self) -> bool:
        return self.computing and self.inner.ahead

    def launch(self, plan: StepPlan, ferry: Ferry | None = None) -> Flight:
        """`decoding` and `prefilling` are how many sequences of each kind were in the last step."""
        decodes = [step for step in plan.steps if len(step.tokens) == 1]
        prompts = [step for step in plan.steps if len(step.tokens) > 1]
        self.decoding, self.prefilling = len(decodes), len(prompts)
        if self.computing or not (prompts or self.rehearsing):
            return self.inner.launch(plan, ferry)
        if ferry is not None:
            for layer in range(self._layers):
                ferry.enter(layer)
                ferry.leave(layer)
        skipped = prompts if not self.rehearsing else plan.steps
        self._clock.skip(self._work.seconds(_load(skipped)))
        answers = {step.seq_id: _answer(step) for step in skipped}
        if decodes and not self.rehearsing:
            computed = self.inner.launch(StepPlan(tuple(decodes), _shape(decodes)))
            answers.update({answer.seq_id: answer for answer in computed.result().sequences})
        return Landed(StepResult(tuple(answers[step.seq_id] for step in plan.steps)))


def _answer(step: SequenceStep) -> SequenceResult:
    return SequenceResult(step.seq_id, ANSWER if step.task is not None else None)


def _load(steps: Sequence[SequenceStep]) -> StepLoad:
    load = StepLoad()
    for step in steps:
        load = load.with_sequence(len(step.tokens), step.length)
    return load


def _shape(steps: Sequence[SequenceStep]) -> StepShape:
    """Every sequence in one run of rows, and all sampling: the shape of plain decoding."""
    shape = StepShape()
    for step in steps:
        runs = step.kv.runs(0, step.length)
        shape = shape.with_sequence(1, step.length, 1, len(runs) > 1)
    return shape
