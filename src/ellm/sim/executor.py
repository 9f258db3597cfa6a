"""An executor that computes nothing and lets virtual time pass."""

from __future__ import annotations

import zlib
from array import array
from collections.abc import Callable
from typing import Protocol

from ellm.core.executor import Ferry, Landed
from ellm.core.load import StepLoad
from ellm.core.plan import SamplingTask, SequenceStep, StepPlan, StepShape
from ellm.core.result import SequenceResult, StepResult, TokenLogprobs
from ellm.sim.clock import VirtualClock

Answer = Callable[[int, SamplingTask], int]
"""The next token of a sequence, by its number and what is asked."""


class StepTime(Protocol):
    """How long a step takes."""

    def seconds(self, load: StepLoad) -> float: ...


class SimExecutor:
    """A step costs `time.seconds` of its load, the same for each of `layers`, and
    `activations` of its shape."""

    def __init__(
        self,
        clock: VirtualClock,
        time: StepTime,
        activations: Callable[[StepShape], int],
        answer: Answer,
        layers: int = 1,
    ) -> None:
        self._clock = clock
        self._time = time
        self._answer = answer
        self._layers = layers
        self.activation_bytes = activations

    @property
    def ahead(self) -> bool:
        return False

    def launch(self, plan: StepPlan, ferry: Ferry | None = None) -> Landed:
        seconds = self._time.seconds(plan.load)
        if ferry is None:
            self._clock.advance(seconds)
        else:
            self._layer_by_layer(seconds, ferry)
        return Landed(StepResult(tuple(self._result(step) for step in plan.steps)))

    def _layer_by_layer(self, seconds: float, ferry: Ferry) -> None:
        for layer in range(self._layers):
            ferry.enter(layer)
            self._clock.advance(seconds / self._layers)
            ferry.leave(layer)

    def _result(self, step: SequenceStep) -> SequenceResult:
        token = None if step.task is None else self._answer(step.seq_id, step.task)
        if not step.targets:
            return SequenceResult(step.seq_id, token)
        scores = tuple(TokenLogprobs(target, -1.0, 1) for target in step.targets)
        return SequenceResult(step.seq_id, token, scores=scores)


def silent(seq_id: int, task: SamplingTask) -> int:
    """Always the same token: what a text says does not matter where only its length does."""
    return 0


class Telltale:
    """Tokens that are a fixed function of all that precedes them.

    A run that loses, repeats or reorders a token after a preemption gives itself away.
    """

    def __init__(self, vocab_size: int = 1000) -> None:
        self._vocab_size = vocab_size
        self._prompts: dict[int, int] = {}  # checksum by sequence

    def __call__(self, seq_id: int, task: SamplingTask) -> int:
        draw = 0 if task.params.greedy else task.seed
        prompt = self._prompts.get(seq_id)
        if prompt is None:
            prompt = zlib.crc32(array("q", task.prompt).tobytes())
            self._prompts[seq_id] = prompt
        rest = array("q", [*task.output, draw]).tobytes()
        token = zlib.crc32(rest, prompt) % self._vocab_size
        return (token + 1) % self._vocab_size if token in task.banned else token
