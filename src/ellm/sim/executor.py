"""An executor that computes nothing and lets virtual time pass."""

from __future__ import annotations

import zlib
from array import array
from collections.abc import Callable

from ellm.core.executor import Ferry
from ellm.core.load import StepLoad
from ellm.core.plan import SequenceStep, StepPlan, StepShape
from ellm.core.result import SequenceResult, StepResult, TokenLogprobs
from ellm.sim.clock import VirtualClock


class SimExecutor:
    """A step costs `seconds` of its load, the same for each of `layers`.

    Tokens are a fixed function of what precedes them.

    The next token depends on the whole text, so that a run that loses, repeats or reorders a
    token after a preemption gives itself away.  Activations cost `bytes_per_token` a token and
    `bytes_per_row` a row of logits.
    """

    def __init__(
        self,
        clock: VirtualClock,
        vocab_size: int = 1000,
        seconds: Callable[[StepLoad], float] = lambda load: 0.01,
        bytes_per_token: int = 4096,
        bytes_per_row: int = 4096,
        layers: int = 1,
    ) -> None:
        self._clock = clock
        self._vocab_size = vocab_size
        self._seconds = seconds
        self._bytes_per_token = bytes_per_token
        self._bytes_per_row = bytes_per_row
        self._layers = layers
        self._prompts: dict[int, int] = {}  # checksum by sequence

    def activation_bytes(self, shape: StepShape) -> int:
        return shape.tokens * self._bytes_per_token + shape.logit_rows * self._bytes_per_row

    def execute(self, plan: StepPlan, ferry: Ferry | None = None) -> StepResult:
        seconds = self._seconds(plan.load) / self._layers
        for layer in range(self._layers):
            if ferry is not None:
                ferry.enter(layer)
            self._clock.advance(seconds)
            if ferry is not None:
                ferry.leave(layer)
        return StepResult(tuple(self._answer(step) for step in plan.steps))

    def _answer(self, step: SequenceStep) -> SequenceResult:
        scores = tuple(TokenLogprobs(target, -1.0, 1) for target in step.targets)
        if step.task is None:
            return SequenceResult(step.seq_id, scores=scores)
        draw = 0 if step.task.params.greedy else step.task.seed
        prompt = self._prompts.get(step.seq_id)
        if prompt is None:
            prompt = zlib.crc32(array("q", step.task.prompt).tobytes())
            self._prompts[step.seq_id] = prompt
        rest = array("q", [*step.task.output, draw]).tobytes()
        token = zlib.crc32(rest, prompt) % self._vocab_size
        if token in step.task.banned:
            token = (token + 1) % self._vocab_size
        return SequenceResult(step.seq_id, token=token, scores=scores)
