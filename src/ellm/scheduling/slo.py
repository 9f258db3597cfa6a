"""Whoever's objective is nearest goes first, and nobody's pace is spoilt for it.

Time to first token: earliest deadline first among those who can still make it.  Time per output
token: a prompt may delay those who decode by what they have saved and will save.  Memory below:
newcomers may fill what the logical buffer allows.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from collections.abc import Sequence as SequenceOf

from ellm.core.load import StepLoad
from ellm.core.objectives import Objectives
from ellm.core.sequence import FinishReason, Sequence
from ellm.scheduling.cost import StepCost
from ellm.scheduling.logical_buffer import LogicalBuffer
from ellm.scheduling.pace import Decoding, Progress
from ellm.scheduling.quantile import Quantile

# Lanes of a priority.
RESUMED, FEASIBLE, LATE = 0, 1, 2
# Seconds after its deadline (or its arrival, without one) when a sequence is overdue.
PATIENCE = 30.0
# So many others get their first token before the next overdue sequence goes first: under lasting
# overload everyone ends up overdue, and serving them all in turn would be late for everybody.
OVERDUE_EVERY = 9
# A smaller chunk is not worth its step, unless it ends the prompt.  Who goes first gets as much in
# any step, whatever it does to those who decode.
SMALLEST_CHUNK = 32
# A step with prompts takes no more than this share of the engine's objective for the first token,
# so that newcomers get their turn, or so many times what the smallest chunk makes it take.
STEP_SHARE = 0.2
STEP_LEAST = 4
# Tokens a request is expected to make before any has finished.
EXPECTED_OUTPUT = 128.0
OUTPUT_RATE = 0.02
# What nine in ten requests do counts as sure.
SURE = 0.9


class SloPolicy:
    """Serves as many requests as it can within their objectives.

    Lanes of a priority, in order: RESUMED are sequences that had begun and lost their memory, and
    overdue ones in their turn; FEASIBLE are those that can still meet their deadline, and parked
    ones that must be running again by some time, earliest first; LATE are those that cannot, and
    those that have none, in order of arrival.  So a lost cause delays nobody, and nobody starves:
    of `OVERDUE_EVERY` + 1 first tokens one belongs to the oldest overdue sequence of its priority,
    if there is one.

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
        self._parked: dict[int, float] = {}  # when they must be running again
        self._finished = 0
        self._mean_output = EXPECTED_OUTPUT
        self._least_output = Quantile(1 - SURE, EXPECTED_OUTPUT / 4)
        # How much longer a prompt takes than one step with all of it would, from its start.
        self._stretch = Quantile(SURE, 1.0)
        # Of the step being planned: who decodes, and when the first of its prompts is due.
        self._decoding: Decoding | None = None
        self._due = math.inf
        self._beside = StepLoad()  # what decoding was last seen to be
        # What the step that is being told of did to each objective; None for nothing yet.
        self._ttft_breach: bool | None = None
        self._tpot_breach: bool | None = None

    def rank(self, sequence: Sequence, now: float) -> tuple[float, ...]:
        request = sequence.request
        if self._goes_first(sequence, now):
            return (request.priority, RESUMED, request.arrival, sequence.seq_id)
        by = self._parked.get(sequence.seq_id)
        if by is not None:
            lane = FEASIBLE if by < math.inf else LATE
            key = by if by < math.inf else request.arrival
            return (request.priority, lane, key, sequence.seq_id)
        deadline = self._deadline(sequence)
        if deadline < math.inf and now + self.prefill_seconds(sequence) <= deadline:
            return (request.priority, FEASIBLE, deadline, sequence.seq_id)
        return (request.priority, LATE, request.arrival, sequence.seq_id)

    def must_wait_for(self, sequence: Sequence, now: float) -> bool:
        return self._goes_first(sequence, now)

    def admits(self, sequence: Sequence, kv_bytes: int, parked_bytes: int, now: float) -> bool:
        # An empty tier holds nobody back, or what is larger than the buffer would wait for ever.
        begun = sequence.num_output > 0
        if self._buffer is None or begun or not parked_bytes or self._goes_first(sequence, now):
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
        least = min(most, SMALLEST_CHUNK)
        limit = self.longest_step(sequence, decoding, now)
        chunk = self._cost.largest_chunk(load, sequence.computed, most, limit)
        if chunk < least:
            # Somebody must get on: whoever goes first, or anyone if nobody is disturbed.
            alone = load.sequences == len(decoding) and (first or not decoding)
            chunk = least if alone else 0
        if chunk and chunk == sequence.uncomputed and now < self._deadline(sequence):
            self._due = min(self._due, self._deadline(sequence))
        return chunk

    def longest_step(self, sequence: Sequence, decoding: Collection[Sequence], now: float) -> float:
        """Seconds that a step with tokens of `sequence` may take; infinite for any time.

        For the sake of those who decode: the least delay any of them can bear, and the time that
        decoding takes once `sequence` decodes too.  For the sake of prompts that end in the same
        step: until the first of them is due.  For the sake of newcomers: see `STEP_SHARE`.
        """
        others = self._look_at(decoding, now)
        pace = self._cost.predict(others.load.with_sequence(1, len(sequence.tokens) + 1))
        limit = min(pace + others.allowed_delay(pace), self._due - now)
        if self._objectives.ttft is not None:
            least = min(sequence.uncomputed, SMALLEST_CHUNK)
            shortest = self._cost.predict(
                others.load.with_sequence(least, sequence.computed + least)
            )
            limit = min(limit, max(STEP_SHARE * self._objectives.ttft, STEP_LEAST * shortest))
        return limit

    def progress(self, sequence: Sequence, now: float) -> Progress | None:
        """How far a decoding sequence is; None without an objective or a first token."""
        tpot = self._of(sequence).tpot
        if tpot is None or sequence.first_token is None:
            return None
        made, most = sequence.num_output, sequence.request.max_tokens
        sure = max(min(self._least_output.value, most) - made, 1.0)
        likely = max(min(self._mean_output, most) - made, 1.0)
        return Progress(tpot, made - 1, now - sequence.first_token, sure, likely)

    def _look_at(self, decoding: Collection[Sequence], now: float) -> Decoding:
        """Those who decode, looked at once a step however many prompts ask."""
        seen = self._decoding
        if seen is None or seen.now != now or seen.load.sequences != len(decoding):
            lengths = (len(sequence.tokens) for sequence in decoding)
            found = (self.progress(sequence, now) for sequence in decoding)
            seen = Decoding.of(lengths, (each for each in found if each is not None), now)
            self._decoding = seen
            self._due = math.inf
            self._beside = seen.load
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
        elif (progress := self.progress(sequence, now)) is not None:
            # By the mean at the end: a sequence may have paused in the tier below, and catch up.
            slow = progress.is_behind and progress.is_lost(self._cost.predict(self._beside))
            self._tpot_breach = slow or bool(self._tpot_breach)

    def stepped(self, load: StepLoad, seconds: float) -> None:
        self._decoding = None
        if self._buffer is not None:
            self._buffer.push(self._ttft_breach, self._tpot_breach)
        self._ttft_breach = self._tpot_breach = None

    def yielded(self, sequence: Sequence) -> None:
        if sequence.first_token is not None:
            pace = self._cost.predict(self._beside)
            self._parked[sequence.seq_id] = self.resume_by(sequence, pace)

    def resumed(self, sequence: Sequence) -> None:
        self._parked.pop(sequence.seq_id, None)

    def victim(self, running: SequenceOf[Sequence]) -> Sequence:
        pace = self._cost.predict(self._beside)
        return max(running, key=lambda s: (self.resume_by(s, pace), s.order))

    def is_parked(self, sequence: Sequence) -> bool:
        return sequence.seq_id in self._parked

    def resume_by(self, sequence: Sequence, pace: float) -> float:
        """When a sequence that pauses must run again to keep its objective.

        It uses up what it has saved, and half of what it will save at `pace` seconds a token.
        Infinite if there is nothing to lose: no objective, no token yet, or a first one too late.
        """
        first, tpot = sequence.first_token, self._of(sequence).tpot
        if first is None or tpot is None or first > self._deadline(sequence):
            return math.inf
        likely = min(self._mean_output, sequence.request.max_tokens) - sequence.num_output
        return first + tpot * (sequence.num_output - 1) + (tpot - pace) * max(likely, 1.0) / 2

    def latest_step(self, sequences: Collection[Sequence], now: float) -> float:
        pace = self._cost.predict(self._beside)
        return min((self._run_by(each, pace, now) for each in sequences), default=math.inf)

    def _run_by(self, sequence: Sequence, pace: float, now: float) -> float:
        """When a sequence must be in a step; infinite if it has nothing left to lose."""
        by = self._deadline(sequence)
        if sequence.first_token is None:
            by -= self.prefill_seconds(sequence)
            return by if now <= by else math.inf
        progress = self.progress(sequence, now)
        if progress is None or sequence.first_token > by:
            return math.inf
        return now + progress.allowed_delay(pace)

    def due(self, sequence: Sequence) -> float:
        """When a waiting sequence must run, for its first token's sake or its pace's."""
        return self._parked.get(sequence.seq_id, self._deadline(sequence))

    def could_keep_pace(
        self, newcomer: Sequence, running: Collection[Sequence], pace: float
    ) -> bool:
        """Whether all that have an objective to keep, parked ones too, can keep it in turns."""
        tpot = self._of(newcomer).tpot
        if tpot is None:
            return True
        keeping = sum(self.resume_by(s, pace) < math.inf for s in running)
        keeping += sum(by < math.inf for by in self._parked.values())
        return (keeping + 1) * pace <= tpot * max(1, sum(s.uncomputed == 1 for s in running))

    def finished(self, sequence: Sequence) -> None:
        self.resumed(sequence)
        self._decoding = None
        self._end_turn(sequence)
        if sequence.finish_reason is FinishReason.ABORT:
            return
        self._finished += 1
        rate = max(OUTPUT_RATE, 1 / self._finished)
        self._mean_output += rate * (sequence.num_output - self._mean_output)
        self._least_output.observe(sequence.num_output)

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
        if sequence is self._turn:
            return True
        if sequence.num_output > 0:
            return sequence.seq_id not in self._parked
        if self._turn is None:
            free = self._others >= OVERDUE_EVERY
        else:
            free = sequence.request.priority < self._turn.request.priority
        return free and self._overdue(sequence, now)

    def _end_turn(self, sequence: Sequence) -> None:
        if sequence is self._turn:
            self._turn = None

    def prefill_seconds(self, sequence: Sequence) -> float:
        """How long the rest of a prompt is likely to take from its start to its first token."""
        return self._stretch.value * self._at_once(sequence.uncomputed, len(sequence.tokens))

    def _at_once(self, tokens: int, length: int) -> float:
        """Seconds of a step that computes the last `tokens` of `length` beside those who decode."""
        return self._cost.predict(self._beside.with_sequence(tokens, length))

    def _learn_stretch(self, sequence: Sequence, now: float) -> None:
        started = sequence.first_scheduled
        if started is None or sequence.preemptions or sequence.parent is not None:
            return
        at_once = self._at_once(sequence.num_prompt, sequence.num_prompt)
        # One that was late from the start may have been held up for others.
        if started + self._stretch.value * at_once <= self._deadline(sequence):
            self._stretch.observe((now - started) / max(at_once, 1e-9))
