"""Whole steps of the real engine, timed: plan, launch and land.

A step is brought about by requests, as a server would have it, so that what is timed is what a
server runs.  What only leads there (the KV of those who decode) is planned and committed, and not
computed: what numbers lie in a cache makes no difference to the time it takes to read them.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count

from ellm.core.executor import Executor, Ferry, Flight, Landed
from ellm.core.load import StepLoad
from ellm.core.plan import StepPlan, StepShape
from ellm.core.request import Request
from ellm.core.result import SequenceResult, StepResult
from ellm.core.sampling import SamplingParams
from ellm.engine.engine import Engine
from ellm.llm.profiling.grid import Point

Step = tuple[StepLoad, float]
"""What a step computed, and its seconds."""
Tick = Callable[[int, int], None]

# Measured in a row each time a point is visited.
REPEATS = 6
# What takes longer is measured once a visit, and in the fewest rounds only.
LONG = 0.25
# Rounds over all points: as many as there is time for, within these.
FEWEST_ROUNDS, MOST_ROUNDS = 2, 9
# A point is left out if one step of it would take more than this share of the time.
LARGEST_SHARE = 1 / 24
# Tokens that those who decode have still to make: no visit takes as many steps.
SPARE = 32
LOWEST_ID = 16


class Idler:
    """An executor that can be told to compute nothing.  `load` is that of the last step."""

    def __init__(self, runner: Executor) -> None:
        self._runner = runner
        self.idle = False
        self.load = StepLoad()

    def activation_bytes(self, shape: StepShape) -> int:
        return self._runner.activation_bytes(shape)

    @property
    def ahead(self) -> bool:
        return self._runner.ahead

    def launch(self, plan: StepPlan, ferry: Ferry | None = None) -> Flight:
        self.load = plan.load
        if not self.idle:
            return self._runner.launch(plan, ferry)
        answers = (SequenceResult(s.seq_id, LOWEST_ID if s.task else None) for s in plan.steps)
        return Landed(StepResult(tuple(answers)))


@dataclass(slots=True)
class Measured:
    """The steps of one point that were timed; `expected` seconds while there are none."""

    point: Point
    steps: list[Step] = field(default_factory=list)
    expected: float = 0.0

    @property
    def lasts(self) -> float:
        """Seconds of a step, the mean of all but the slowest quarter.

        Not the median: now and then a step maps memory for all who decode, and that counts.
        """
        if not self.steps:
            return self.expected
        seconds = sorted(seconds for _, seconds in self.steps)
        kept = seconds[: len(seconds) - len(seconds) // 4]
        return sum(kept) / len(kept)

    @property
    def load(self) -> StepLoad:
        """That of the middle: contexts grow by a token from step to step."""
        loads = sorted(load for load, _ in self.steps)
        return loads[len(loads) // 2]


class StepBench:
    """Brings steps about on `engine`, whose executor is `idler`.

    The engine shares prefixes, takes requests as they come and has no tier below.
    """

    def __init__(self, engine: Engine, idler: Idler, vocab_size: int, seed: int) -> None:
        self._engine = engine
        self._idler = idler
        self._random = random.Random(seed)
        self._ids = range(min(LOWEST_ID, vocab_size - 1), vocab_size)
        self._names = count()

    def visit(self, point: Point, repeats: int = REPEATS) -> list[Step]:
        """Steps of that kind, after one that only warms up; none if memory is too short for them.

        A single prompt is long enough to need no warming up.
        """
        beginning = self._beginning(point.before)
        found: list[Step] = []
        warm = int(repeats > 1 or point.decoding > 0)
        # Where the engine runs ahead, a call ends with the step that the call before has launched.
        ahead = int(self._idler.ahead)
        if self._begin_decoding(point):
            for _ in range(warm + repeats + ahead):
                for _ in range(point.prompts):
                    self._submit([*beginning, *self._tokens(point.tokens)], 1)
                before = self._idler.load
                start = time.perf_counter()
                self._engine.step()
                seconds = time.perf_counter() - start
                found.append((before if ahead else self._idler.load, seconds))
        self._clear()
        return found[warm + ahead :]

    def _begin_decoding(self, point: Point) -> bool:
        """Let as many decode as the point wants; whether they do."""
        answer = SPARE + point.meanwhile
        for number in range(point.decoding):
            self._submit(self._tokens(point.context), answer)
            if number == 0:
                self._idle_step()  # the others' prompts are computed in parts, beside this one
        for _ in range(point.meanwhile):
            self._idle_step()
            if self._idler.load.tokens == self._idler.load.sequences == point.decoding:
                return True
        return not point.decoding

    def _beginning(self, tokens: int) -> list[int]:
        """What the point's prompts have in common, computed already."""
        found = self._tokens(tokens)
        if tokens:
            self._submit(found, 1)
            while self._engine.has_work:
                self._idle_step()
        return found

    def _tokens(self, tokens: int) -> list[int]:
        return self._random.choices(self._ids, k=tokens)

    def _submit(self, prompt: Sequence[int], answer: int) -> None:
        params = SamplingParams(max_tokens=answer, temperature=0, ignore_eos=True)
        name = str(next(self._names))
        self._engine.submit(Request(request_id=name, prompt=tuple(prompt), params=params))

    def _idle_step(self) -> None:
        self._idler.idle = True
        self._engine.step()
        self._idler.idle = False

    def _clear(self) -> None:
        for name in self._engine.request_ids:
            self._engine.abort(name)
        self._engine.step()


def measure(
    bench: StepBench, points: Sequence[Point], seconds: float, seed: int, tick: Tick
) -> list[Measured]:
    """All points in rounds, each in an order of its own against drift, for about so many seconds.

    The first round goes from small steps to large ones, and leaves out what would take too long.
    `tick` is told of each visit: how many there were, and how many there will be at least.
    """
    limit = time.perf_counter() + seconds
    found: list[Measured] = []
    visits = 0

    def visit(measured: Measured) -> None:
        nonlocal visits
        measured.steps += bench.visit(measured.point, 1 if measured.lasts > LONG else REPEATS)
        visits += 1
        tick(visits, max(visits, FEWEST_ROUNDS * len(points)))

    pace = 0.0  # seconds a token of the largest step so far
    for point in sorted(points, key=lambda point: (point.size, point.held)):
        expected = pace * point.size
        if expected < seconds * LARGEST_SHARE:
            measured = Measured(point, expected=expected)
            visit(measured)
            if measured.steps:
                found.append(measured)
                pace = measured.lasts / point.size
    rng = random.Random(seed)
    for number in range(1, MOST_ROUNDS):
        if number >= FEWEST_ROUNDS and time.perf_counter() > limit:
            break
        for measured in rng.sample(found, len(found)):
            if number < FEWEST_ROUNDS or measured.lasts <= LONG:
                visit(measured)
    return found
