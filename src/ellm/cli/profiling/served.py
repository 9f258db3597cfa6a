"""What a server takes beside its engine's steps, as a client on the same machine sees it.

request        a prompt that is known already, so that next to nothing is computed: its time to
prompt_token   the first token, less a step's, is a straight line in its length
start          one request decodes, and is delayed by others that come and go beside it
step           so many decode at once, and take so much longer a token than the engine's steps
sequence
output_token   the tokens of one step reach their clients one after the other
completion     from the last token to the end of the answer
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

from ellm.cli.profiling.hosting import Client, Heard
from ellm.core.load import StepLoad
from ellm.llm.profiling.fit import StepFit
from ellm.llm.profiling.steps import LOWEST_ID, Tick
from ellm.scheduling.nnls import nonnegative

CROWDS = (1, 2, 4, 8, 16, 32, 64)
# Tokens of an answer whose tokens are timed: enough that its first ones, while others still begin,
# count for little.
ANSWER = 96
# Where that many would take longer than so many seconds, there are fewer, but not below so few.
LONGEST, FEWEST_TOKENS = 15.0, 8
# Prompts of those who decode, and of those who come and go beside one that does.
SHORT = 16
VISIT = 32
MOST_VISITS = 256
# Crowds whose answers take no longer than so many seconds are asked so often.
SHORT_ROUND, MOST_ROUNDS = 1.5, 7
# How often a prompt that is known is asked again.
AGAIN = 6
# Questions there are at least.
FEWEST = 2 + len(CROWDS) + 5 * (1 + AGAIN)
PROMPTS = (17, 129, 513, 1025, 2033)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerTimes:
    """Seconds, by the names of sim/devices/device.py; `decoding` has for each number of clients
    what a step took."""

    request: float
    prompt_token: float
    start: float
    step: float
    sequence: float
    output_token: float
    completion: float
    decoding: Sequence[tuple[int, float]]


class ServerBench:
    """Asks a server that serves a model whose steps take what `steps` says."""

    def __init__(
        self, client: Client, steps: StepFit, vocab_size: int, seed: int, tick: Tick
    ) -> None:
        self._client = client
        self._steps = steps
        self._random = random.Random(seed)
        self._ids = range(min(LOWEST_ID, vocab_size - 1), vocab_size)
        self._tick = tick
        self._asked = 0

    def measure(self, sequences: int, context: int) -> ServerTimes:
        """With as many clients as `sequences` allows, and prompts of up to `context` tokens."""
        self._crowd(min(8, sequences))  # warms up
        decoding, apart = [], [0.0]
        for crowd, rounds in self._rounds(self._crowds(sequences)).items():
            decoding.append((crowd, median(map(_pace, rounds))))
            if crowd > 2:
                apart += map(_apart, rounds)
        step, sequence = self._beside_steps(decoding)
        visits = [self._visits(step, sequence) for _ in range(MOST_ROUNDS)]
        held, waited = (median(times) for times in zip(*visits, strict=True))
        start, token = max(self._steps.start, held), median(apart)
        lengths = [length for length in PROMPTS if length + 1 < context]
        each, end = self._lone(lengths, step + sequence)
        return ServerTimes(
            request=max(0.0, waited - start - each * VISIT - token),
            prompt_token=each,
            start=start,
            step=step,
            sequence=sequence,
            output_token=token,
            completion=end,
            decoding=decoding,
        )

    def _crowds(self, sequences: int) -> list[int]:
        """Of those there may be, the ones that do not take too long."""
        found = [count for count in CROWDS if count <= sequences]
        return [
            count
            for count in found
            if count == 1 or self._decoding(count) * FEWEST_TOKENS < LONGEST
        ]

    def _decoding(self, count: int) -> float:
        """About what a step takes the engine in which so many decode."""
        return self._steps.seconds(StepLoad.of([(1, SHORT + ANSWER // 2)] * count))

    def _rounds(self, crowds: Sequence[int]) -> dict[int, list[list[Heard]]]:
        """Several of each where they are short, with the others between them: a machine that is
        slow for some seconds is so for one round of each."""
        found = {crowd: [self._crowd(crowd)] for crowd in crowds}
        short = [crowd for crowd in crowds if _lasted(found[crowd][0]) < SHORT_ROUND]
        for _ in range(1, MOST_ROUNDS):
            for crowd in short:
                found[crowd].append(self._crowd(crowd))
        return found

    def _tell(self) -> None:
        self._asked += 1
        self._tick(self._asked, max(self._asked, FEWEST))

    def _prompt(self, tokens: int) -> list[int]:
        return self._random.choices(self._ids, k=tokens)

    def _crowd(self, count: int) -> list[Heard]:
        """So many who decode at the same time."""
        tokens = _tokens(self._decoding(count))
        answers = self._client.ask([self._prompt(SHORT) for _ in range(count)], tokens)
        self._tell()
        return answers

    def _beside_steps(self, decoding: Iterable[tuple[int, float]]) -> tuple[float, float]:
        """What a step takes longer than in the engine alone, and for each sequence of it."""
        rows, wanted = [[0.0, 0.0], [0.0, 0.0]], [0.0, 0.0]
        for count, seconds in decoding:
            beside = seconds - self._decoding(count)
            weight = 1 / seconds**2
            for i, one in enumerate((1, count)):
                wanted[i] += weight * one * beside
                for j, other in enumerate((1, count)):
                    rows[i][j] += weight * one * other
        step, sequence = nonnegative(rows, wanted, [1e-4, 1e-5])
        return step, sequence

    def _visits(self, step: float, sequence: float) -> tuple[float, float]:
        """While one request decodes, others come for a token each: by how much each of them holds
        it up, beside what is computed, and how long its token takes, beside that and half a step
        until its own begins."""
        visitors = [self._prompt(VISIT) for _ in range(MOST_VISITS)]
        decoding = (1, SHORT + ANSWER // 2)
        single = self._steps.seconds(StepLoad.of([decoding])) + step + sequence
        mixed = self._steps.seconds(StepLoad.of([decoding, (VISIT, 0)])) + step + 2 * sequence
        first, *others = self._client.ask([self._prompt(SHORT)], _tokens(mixed), visitors)
        self._tell()
        # The last one came as the first ended, or after.
        visits = others[:-1] or others
        computed = (len(first.gaps) - len(visits)) * single + len(visits) * mixed
        held = (first.last - first.ttft - computed) / len(visits)
        return held, median(each.ttft for each in visits) - mixed - single / 2

    def _lone(self, lengths: Sequence[int], beside: float) -> tuple[float, float]:
        """What a token of a prompt takes beside a step, and an answer from its last token on.

        Prompts are asked again, so that of each only the last token is computed.
        """
        points, ends = [], []
        for length in lengths:
            prompt = self._prompt(length)
            times = []
            for _ in range(1 + AGAIN):
                (answer,) = self._client.ask([prompt], 1)
                times.append(answer.ttft)
                ends.append(answer.ended - answer.last)
                self._tell()
            step = self._steps.seconds(StepLoad.of([(1, length - 1)])) + beside
            points.append((length, max(0.0, median(times[1:]) - step)))
        return _slope(points), max(0.0, median(ends))


def _tokens(step: float) -> int:
    """Tokens of an answer, fewer where steps take so long that they say enough."""
    return max(FEWEST_TOKENS, min(ANSWER, int(LONGEST / step)))


def _lasted(answers: Sequence[Heard]) -> float:
    return max(each.ended for each in answers)


def _together(answers: Sequence[Heard]) -> list[list[float]]:
    """When the tokens of each came while all of them decoded; all of them if that never was."""
    times = [each.tokens for each in answers]
    begun, ended = max(each[0] for each in times), min(each[-1] for each in times)
    inside = [[time for time in each if begun <= time <= ended] for each in times]
    return inside if all(len(each) > 1 for each in inside) else times


def _pace(answers: Sequence[Heard]) -> float:
    """Mean seconds of a step while all of them decoded."""
    return median((each[-1] - each[0]) / (len(each) - 1) for each in _together(answers))


def _apart(answers: Sequence[Heard]) -> float:
    """Seconds between the tokens of one step.

    step n ├t─t─t─t·········· step n+1 ├t─t─t─t··········
            └─ one each ─┘└ the longest ┘
    """
    times = _together(answers)
    merged = sorted(time for each in times for time in each)
    found = []
    for place in range(0, len(merged) - len(times), len(times)):
        window = merged[place : place + len(times) + 1]
        gaps = [after - before for before, after in pairwise(window)]
        found.append((sum(gaps) - max(gaps)) / (len(gaps) - 1))
    return median(found) if found else 0.0


def _slope(points: Sequence[tuple[int, float]]) -> float:
    """Of the straight line that is nearest; 0 for one that falls."""
    rows, wanted = [[0.0, 0.0], [0.0, 0.0]], [0.0, 0.0]
    for place, value in points:
        for i, one in enumerate((1.0, place)):
            wanted[i] += one * value
            for j, other in enumerate((1.0, place)):
                rows[i][j] += one * other
    return nonnegative(rows, wanted, [1e-3, 1e-7])[1] if len(points) > 1 else 0.0
