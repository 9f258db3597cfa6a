"""A quick replay for fitting: the engine's policy where memory is plenty, runs of decoding at once.

calibrate.py confirms what it finds with the engine itself.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from ellm.core.load import StepLoad
from ellm.sim.costs.stage import StageTime
from ellm.sim.workload.item import Item

# Decoding steps that are taken to be alike at most, but for the KV that they read.
RUN = 50


@dataclass(slots=True)
class _Sequence:
    """`left` tokens of its prompt to compute, `length` computed, `output` to come."""

    item: Item
    left: int
    length: int
    output: int
    first: float = 0.0


@dataclass(slots=True)
class Replay:
    """Seconds to first tokens, and from first to last ones, over all requests."""

    stage: StageTime
    most_tokens: int
    chunked: bool
    now: float = 0.0
    ttft: float = 0.0
    after: float = 0.0

    def run(self, items: Sequence[Item]) -> None:
        coming = deque(items)
        waiting: deque[_Sequence] = deque()
        running: list[_Sequence] = []
        while coming or waiting or running:
            if not waiting and not running:
                self.now = max(self.now, coming[0].arrival)
            while coming and coming[0].arrival <= self.now:
                item = coming.popleft()
                waiting.append(_Sequence(item, item.prompt_tokens, 0, item.output_tokens))
            if waiting:
                running = self._with_prompts(running, waiting)
            else:
                running = self._decode(running, coming[0].arrival if coming else math.inf)

    def _with_prompts(self, running: list[_Sequence], waiting: deque[_Sequence]) -> list[_Sequence]:
        """One step: a token of each that decodes, and of prompts in turn what there is room for."""
        room = self.most_tokens - len(running)
        parts = [(1, one.length) for one in running]
        ended = []
        for one in waiting:
            count = min(one.left, room)
            if count <= 0 or (count < one.left and not self.chunked):
                break
            parts.append((count, one.length))
            one.left, one.length, room = one.left - count, one.length + count, room - count
            if not one.left:
                ended.append(one)
        self.now += self.stage.seconds([StepLoad.of(parts)])
        for one in running:
            one.length, one.output = one.length + 1, one.output - 1
        for one in ended:
            waiting.popleft()
            one.first, one.output = self.now, one.output - 1
            self.ttft += self.now - one.item.arrival
        return self._going([*running, *ended])

    def _decode(self, running: list[_Sequence], until: float) -> list[_Sequence]:
        """Steps until somebody ends or comes."""
        count, kv = len(running), sum(one.length for one in running)
        steps = min(one.output for one in running)
        if until < math.inf:
            likely = self._decoding(count, kv, min(steps, RUN))
            steps = max(1, min(steps, math.ceil((until - self.now) / likely)))
        self.now += steps * self._decoding(count, kv, steps)
        for one in running:
            one.length, one.output = one.length + steps, one.output - steps
        return self._going(running)

    def _decoding(self, count: int, kv: int, steps: int) -> float:
        """The mean of so many steps, of which the first reads `kv` tokens and what it makes."""
        cached = kv + count * (steps + 1) // 2
        return self.stage.seconds([StepLoad(count, cached, cached, count)])

    def _going(self, running: list[_Sequence]) -> list[_Sequence]:
        """Without those that have ended."""
        self.after += sum(self.now - one.first for one in running if not one.output)
        return [one for one in running if one.output]
