"""Whoever's objective is nearest goes first, and nobody's pace is spoilt for it.

Time to first token: earliest deadline first among those who can still make it.  Time per output
token: a prompt may delay those who decode by what they have saved and will save.  Memory below:
newcomers may fill what the logical buffer allows.
"""

from __future__ import annotations

import math
from collections.abc import Collection

from ellm.core.load import StepLoad
from ellm.core.objectives import Objectives
from ellm.core.sequence import FinishReason, Sequence
from ellm.scheduling.cost import StepCost
from ellm.scheduling.logical_buffer import LogicalBuffer
from ellm.scheduling.pace import Decoding, Savings

# Lanes of a priority.
RESUMED, FEASIBLE, LATE = 0, 1, 2
# Seconds after its deadline (or its arrival, without one) when a sequence is overdue.
PATIENCE = 30.0
# So many others get their first token before the next overdue sequence goes first: under lasting
# overload everyone ends up overdue, and serving them all in turn would be late for everybody.
OVERDUE_EVERY = 9
HEADROOM = 1.0
FUT = 1.0
# A smaller chunk is not worth its step, unless it ends the prompt.  The first in line gets
# as much in any step, whatever it does to those who decode.
SMALLEST_CHUNK = 32
# Tokens a request is expected to make before any has finished.
EXPECTED_OUTPUT = 128.0
OUTPUT_RATE = 0.02
# How much longer than alone a prompt takes among others: so that nine in ten take less.
STRETCH_QUANTILE = 0.9
STRETCH_RATE = 0.05


class SloPolicy:
    """Serves as many requests as it can within their objectives.

    Lanes of a priority, in order: RESUMED are sequences that had begun and lost their memory, and
    overdue ones in their turn; FEASIBLE are those that can still meet their deadline, earliest
    first; LATE are those that cannot, and those that have none, in order of arrival.  So a lost
    cause delays nobody, and nobody starves: of `OVERDUE_EVERY` + 1 first tokens one belongs to the
    oldest overdue sequence, if there is one.

    `cost` is the engine's, which teaches it.  `buffer` None is for an engine without a tier below.
    """

    skips = True

    def __init__(
        self, objectives: Objectives, cost: StepCost, buffer: LogicalBuffer | None = None
    ) -> None:
        self._objectives = objectives
        self._cost = cost
        self._buffer = buffer
        self._others = OVERDUE_EVERY  # first tokens since an overdue one
        self._turn: Sequence | None = None  # the overdue one that is being served
        self._output = EXPECTED_OUTPUT
        self._outputs = 0
        self._stretch = 1.0
        self._decoding: Decoding | None = None  # as of the step being planned
        # What the step that is being told of did to each objective; None for nothing yet.
        self._ttft_breach: bool | None = None
        self._tpot_breach: bool | None = None

    def rank(self, sequence: Sequence, now: float) -> tuple[float, ...]:
        request = sequence.request
        if self._goes_first(sequence, now):
            return (request.priority, RESUMED, request.arrival, sequence.seq_id)
        deadline = self._deadline(sequence)
        if deadline < math.inf and now + self._prefill_seconds(sequence) <= deadline:
            return (request.priority, FEASIBLE, deadline, sequence.seq_id)
        return (request.priority, LATE, request.arrival, sequence.seq_id)

    def must_wait_for(self, sequence: Sequence, now: float) -> bool:
        return self._goes_first(sequence, now)

    def admits(self, sequence: Sequence, kv_bytes: int, parked_bytes: int, now: float) -> bool:
        # An empty tier holds nobody back, or what is larger than the buffer would wait for ever.
        if self._buffer is None or parked_bytes == 0 or self._goes_first(sequence, now):
            return True
        return parked_bytes + kv_bytes <= self._buffer.size

    def prefill_tokens(
        self,
        sequence: Sequence,
        load: StepLoad,
        decoding: Collection[Sequence],
        now: float,
        most: int,
    ) -> int:
        first = self._goes_first(sequence, now)
        if first and sequence.num_output == 0:
            self._turn = sequence
        limit = self.longest_step(sequence, decoding, now)
        if limit == math.inf:
            return most
        least = min(most, SMALLEST_CHUNK)
        chunk = self._cost.largest_chunk(load, sequence.computed, most, limit)
        if chunk < least:
            chunk = least if first and load.sequences == len(decoding) else 0
        return chunk

    def longest_step(self, sequence: Sequence, decoding: Collection[Sequence], now: float) -> float:
        """Seconds that a step with tokens of `sequence` may take, for the sake of those decoding.

        No more than the least delay any of them can bear, beside the time that decoding takes
        once `sequence` decodes too.  0 if it could then not keep up itself.
        """
        own = self._of(sequence).tpot
        others = self._look_at(decoding, now)
        if not decoding or (own is None and not others.savings):
            return math.inf
        length = len(sequence.tokens) + 1
        pace = self._cost.predict(others.load.with_sequence(1, length))
        # An objective that is out of reach even for a sequence alone restrains nobody.
        if own is not None and HEADROOM * own < pace and self._alone(1, length) <= own:
            return 0.0
        return pace + others.allowed_delay(pace)

    def savings(self, sequence: Sequence, now: float) -> Savings | None:
        """What a decoding sequence has saved; None without an objective or a first token."""
        tpot = self._of(sequence).tpot
        if tpot is None or sequence.first_token is None:
            return None
        saved = tpot * (sequence.num_output - 1) - (now - sequence.first_token)
        left = sequence.request.max_tokens - sequence.num_output
        future = min(left, max(FUT * self._output - sequence.num_output, 1.0))
        return Savings(tpot, saved, future, left)

    def _look_at(self, decoding: Collection[Sequence], now: float) -> Decoding:
        """Those who decode, looked at once a step however many prompts ask."""
        seen = self._decoding
        if seen is None or seen.now != now or seen.load.sequences != len(decoding):
            lengths = (len(sequence.tokens) for sequence in decoding)
            found = (self.savings(sequence, now) for sequence in decoding)
            seen = Decoding.of(lengths, (each for each in found if each is not None), now)
            self._decoding = seen
        return seen

    def token(self, sequence: Sequence, now: float) -> None:
        self._decoding = None
        objectives = self._of(sequence)
        if sequence.last_token is None:
            self._others = 0 if self._overdue(sequence, now) else self._others + 1
            self._end_turn(sequence)
            self._learn_stretch(sequence, now)
            if objectives.ttft is not None:
                late = now > self._deadline(sequence)
                self._ttft_breach = late or bool(self._ttft_breach)
        elif objectives.tpot is not None:
            slow = now - sequence.last_token > objectives.tpot
            self._tpot_breach = slow or bool(self._tpot_breach)

    def stepped(self, load: StepLoad, seconds: float) -> None:
        self._decoding = None
        if self._buffer is not None:
            self._buffer.push(self._ttft_breach, self._tpot_breach)
        self._ttft_breach = self._tpot_breach = None

    def finished(self, sequence: Sequence) -> None:
        self._decoding = None
        self._end_turn(sequence)
        if sequence.finish_reason is FinishReason.ABORT:
            return
        self._outputs += 1
        rate = max(OUTPUT_RATE, 1 / self._outputs)
        self._output += rate * (sequence.num_output - self._output)

    def _of(self, sequence: Sequence) -> Objectives:
        return self._objectives.overridden(sequence.request.objectives)

    def _deadline(self, sequence: Sequence) -> float:
        """When the first token is due; infinity without an objective."""
        ttft = self._of(sequence).ttft
        return math.inf if ttft is None else sequence.request.arrival + ttft

    def _overdue(self, sequence: Sequence, now: float) -> bool:
        deadline = self._deadline(sequence)
        due = sequence.request.arrival if deadline == math.inf else deadline
        return now >= due + PATIENCE

    def _goes_first(self, sequence: Sequence, now: float) -> bool:
        """Whether nobody of its priority may pass `sequence`."""
        if sequence.num_output > 0 or sequence is self._turn:
            return True
        if self._turn is None:
            free = self._others >= OVERDUE_EVERY
        else:
            free = sequence.request.priority < self._turn.request.priority
        return free and self._overdue(sequence, now)

    def _end_turn(self, sequence: Sequence) -> None:
        if sequence is self._turn:
            self._turn = None

    def _alone(self, tokens: int, length: int) -> float:
        """Seconds of a step in which one sequence computes the last `tokens` of `length`."""
        return self._cost.predict(StepLoad().with_sequence(tokens, length))

    def _prefill_seconds(self, sequence: Sequence) -> float:
        """How long the rest of a prompt is likely to take from its start to its first token."""
        return self._stretch * self._alone(sequence.uncomputed, len(sequence.tokens))

    def _learn_stretch(self, sequence: Sequence, now: float) -> None:
        """Follow the quantile of (time taken / time alone) in small relative steps."""
        if sequence.first_scheduled is None or sequence.preemptions or sequence.parent is not None:
            return
        taken = now - sequence.first_scheduled
        alone = self._alone(sequence.num_prompt, sequence.num_prompt)
        if sequence.first_scheduled + self._stretch * alone > self._deadline(sequence):
            return  # it was late from the start, and may have been held up for others
        step = STRETCH_QUANTILE if taken > self._stretch * alone else STRETCH_QUANTILE - 1
        self._stretch = min(max(self._stretch * (1 + STRETCH_RATE * step), 0.05), 20.0)
