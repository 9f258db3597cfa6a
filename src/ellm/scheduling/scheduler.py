"""Who computes how many tokens in the next step.

There is no prefill and no decoding here.  Every sequence has known tokens and computed ones; a
step lets each catch up by some tokens, running sequences before waiting ones.  How many tokens of a
prompt a step takes follows from what memory and the policy allow at that moment (elastic prefill).
When memory is short the latest arrival yields and waits at its old place with every token it has.
Its KV goes to the tier below where fetching it will take less time than computing it again, and is
freed where not.  Since the sequence in front always gets what it needs, somebody always advances.
"""

from __future__ import annotations

from bisect import insort
from collections import deque
from collections.abc import Callable
from typing import Any

from ellm.core.config import SchedulerConfig
from ellm.core.load import StepLoad
from ellm.core.plan import StepPlan, StepShape
from ellm.core.sequence import Sequence, SequenceStatus
from ellm.kv.manager import KvManager
from ellm.kv.parking import Whereabouts
from ellm.scheduling.cost import StepCost
from ellm.scheduling.decoding import decode_together, load_of
from ellm.scheduling.displacement import Displacement
from ellm.scheduling.draft import Draft
from ellm.scheduling.policy import Policy
from ellm.scheduling.queue import WaitingQueue

# A prompt chunk is halved down to this many tokens before anyone is preempted for it: smaller
# ones would only put the preemption off, at a worse price per token.
SMALLEST_CHUNK = 32
# A prompt chunk above this many tokens is not worth a kept prefix: it only saves a little time.
LARGE_CHUNK = 512
# How many newcomers a step looks past that cannot start now.  Who waits for its KV costs less.
MOST_SKIPPED = 16
_UNBOUNDED = 1 << 31


class Scheduler:
    """Plans steps over a KV manager.

    `activation_bytes` is the executor's price of a shape in memory, `cost` the price of a load in
    time.  Without `parks` whoever yields is computed again.
    """

    def __init__(
        self,
        config: SchedulerConfig,
        kv: KvManager[Any],
        activation_bytes: Callable[[StepShape], int],
        policy: Policy,
        cost: StepCost,
        parks: bool = True,
        displacement: Displacement | None = None,
    ) -> None:
        self._config = config
        self._kv = kv
        self._activation_bytes = activation_bytes
        self._policy = policy
        self._cost = cost
        self._parks = parks
        self._displacement = displacement
        # In order of arrival within a priority: who stands behind yields to who stands in front.
        self.running: list[Sequence] = []
        self.returning: list[Sequence] = []
        self.waiting = WaitingQueue(policy.rank)
        self.preemptions = 0
        self._too_many = _UNBOUNDED

    @property
    def has_work(self) -> bool:
        return bool(self.running or self.returning) or len(self.waiting) > 0

    def add(self, sequence: Sequence) -> None:
        self.waiting.push(sequence)

    def remove(self, sequence: Sequence, keep_prefix: bool = False) -> None:
        """Forget a sequence that has finished or was aborted; its KV is free at once."""
        if sequence.status is SequenceStatus.RUNNING:
            self.running.remove(sequence)
        elif sequence.status is SequenceStatus.RETURNING:
            self.returning.remove(sequence)
        self.waiting.remove(sequence)
        sequence.status = SequenceStatus.FINISHED
        self._kv.free(sequence.seq_id, keep=keep_prefix)

    def let_land(self, sequence: Sequence) -> None:
        """A running sequence has its last token under way: it keeps its KV, and is in no step."""
        self.running.remove(sequence)
        sequence.status = SequenceStatus.LANDING

    def schedule(self, now: float) -> StepPlan | None:
        """The next step, with all its memory granted; None if there is nothing to run."""
        self._kv.begin(now)
        self._collect()
        self._set_layered_aside()
        self._make_way(now)
        preemptions = self.preemptions
        decoding = [sequence for sequence in self.running if sequence.uncomputed == 1]
        draft = Draft(self._config.max_num_batched_tokens or _UNBOUNDED, load_of(decoding))
        turn = deque(self._in_turn(now))
        while turn and draft.left:
            if not decode_together(turn, draft, self._kv, self._activation_bytes):
                sequence = turn.popleft()
                if sequence.status is SequenceStatus.RUNNING:
                    self._continue(sequence, draft, now)
        if self.preemptions == preemptions or not self.running:
            self._admit(draft, now)
        elif not len(draft):
            return self.schedule(now)  # without those who have yielded, others have their turn
        return draft.plan()

    def _in_turn(self, now: float) -> list[Sequence]:
        """Running sequences: as they came, or those who decode and then prompts by their rank."""
        if not self._policy.skips:
            return list(self.running)
        prompts = [sequence for sequence in self.running if sequence.uncomputed > 1]
        prompts.sort(key=lambda sequence: self._policy.rank(sequence, now))
        return [*(s for s in self.running if s.uncomputed <= 1), *prompts]

    def _make_way(self, now: float) -> None:
        """Park those with time to spare for those without."""
        if self._displacement is not None:
            running = tuple(self.running)
            for victim in self._displacement.victims(running, self._parking_pays, now):
                self._preempt(victim)

    def yield_memory(self) -> bool:
        """Preempt the latest arrival, if anyone runs; whether someone did."""
        if not self.running:
            return False
        self._preempt(self.running[-1])
        return True

    def _continue(self, sequence: Sequence, draft: Draft, now: float) -> None:
        """Let a running sequence advance, at the cost of later ones if it must be."""
        most = self._most(sequence, draft, now)
        while most and not self._grant(sequence, draft, most):
            others = [s for s in self.running if s not in draft and s is not sequence]
            later = [s for s in others if self._policy.skips or s.order > sequence.order]
            if not later and len(draft):
                return  # those in front advance, and will preempt it if they need its memory
            self._preempt(self._policy.victim(later) if later else sequence)
            if not later:
                return  # alone, and still short: start over in one piece

    def _most(self, sequence: Sequence, draft: Draft, now: float) -> int:
        """Tokens of `sequence` that time and limits allow in this step; 0 for not in this one."""
        most = min(sequence.uncomputed, draft.left)
        if sequence.uncomputed > 1:
            running = [s for s in self.running if s.uncomputed == 1]
            most = self._policy.prefill_tokens(sequence, draft.load, running, now, most)
        if not self._config.chunked_prefill and most < sequence.uncomputed:
            return 0 if len(draft) else min(sequence.uncomputed, draft.left)
        return most

    def _grant(self, sequence: Sequence, draft: Draft, most: int) -> bool:
        """Add as many tokens of `sequence` as memory allows now, if any.

        What is to be computed in one piece is cut only when nobody is left to make room for it.
        """
        count = most
        cut = self._config.chunked_prefill or all(one is sequence for one in self.running)
        least = min(most, SMALLEST_CHUNK) if cut else most
        while True:
            if self._fits(sequence, count, draft, gentle=least < count and count > LARGE_CHUNK):
                return True
            if count == least:
                return False
            count = max(least, count // 2)

    def _fits(self, sequence: Sequence, count: int, draft: Draft, gentle: bool) -> bool:
        length = sequence.computed + count
        shape = draft.shape_with(sequence, count, self._kv.gathers(length))
        table = self._kv.reserve(
            sequence.seq_id,
            length,
            self._activation_bytes(shape),
            expect=len(sequence.tokens),
            gentle=gentle,
        )
        if table is None:
            return False
        if sequence.uncomputed > 1:
            draft.load = draft.load.with_sequence(count, length)
        draft.add(sequence, count, table, shape)
        return True

    def _preempt(self, sequence: Sequence) -> None:
        """Take the memory of a running sequence.  It keeps its tokens, its seed and its place."""
        self.running.remove(sequence)
        if self._parking_pays(sequence) and self._kv.park(sequence.seq_id, sequence.computed):
            self._kv.room.stats.swapped += 1
            self._policy.yielded(sequence)
        else:
            self._forget(sequence)
            self._kv.room.stats.recomputed += 1
        sequence.preemptions += 1
        self.preemptions += 1
        self._put_back(sequence)

    def start_over(self, sequence: Sequence) -> None:
        """The KV of a running sequence was lost: it is computed again."""
        self.running.remove(sequence)
        self._forget(sequence)
        self._kv.room.stats.recomputed += 1
        self._put_back(sequence)

    def _put_back(self, sequence: Sequence) -> None:
        sequence.status = SequenceStatus.WAITING
        self.waiting.push(sequence)

    def _parking_pays(self, sequence: Sequence) -> bool:
        """Whether its KV is back from below sooner than computed again."""
        if not self._parks or sequence.computed == 0:
            return False
        seconds = self._kv.park_seconds(sequence.computed)
        return seconds is not None and self._fetching_pays(sequence.computed, seconds)

    def _fetching_pays(self, tokens: int, seconds: float) -> bool:
        return seconds < self._cost.predict(StepLoad().with_sequence(tokens, tokens))

    def _collect(self) -> None:
        """Let sequences run whose KV has come back."""
        for sequence in list(self.returning):
            tokens = self._kv.collect(sequence.seq_id)
            if tokens is None:
                continue
            self.returning.remove(sequence)
            sequence.computed = tokens
            if tokens:
                self._run(sequence)
            else:
                self._forget(sequence)
                self._put_back(sequence)

    def _run(self, sequence: Sequence) -> None:
        self._policy.resumed(sequence)
        sequence.status = SequenceStatus.RUNNING
        insort(self.running, sequence, key=lambda s: s.order)

    def _admit(self, draft: Draft, now: float) -> None:
        skipped, newcomers, self._too_many = [], 0, _UNBOUNDED
        for sequence in self.waiting.drain(now):
            active = len(self.running) + len(self.returning)
            if not draft.left or active >= self._config.max_num_seqs:
                skipped.append(sequence)
                break
            if sequence.waits_for_parent:
                skipped.append(sequence)
            elif not self._start(sequence, draft, now):
                skipped.append(sequence)
                self._wish(sequence)
                newcomers += self._kv.where(sequence.seq_id) is None
                if newcomers > MOST_SKIPPED or not self._may_pass(sequence, now):
                    break
        for sequence in skipped:
            self.waiting.push(sequence)

    def _wish(self, sequence: Sequence) -> None:
        """Remember who could not start for want of memory."""
        if self._displacement is not None and not self._could_hold(len(sequence.tokens)):
            self._displacement.wish(sequence)

    def _could_hold(self, tokens: int) -> bool:
        """Whether memory has room: in one step what found none is not asked for again."""
        if tokens < self._too_many and not self._kv.could_hold(tokens, soon=False):
            self._too_many = tokens
        return tokens < self._too_many

    def _may_pass(self, sequence: Sequence, now: float) -> bool:
        """Whether others may start before `sequence`, which cannot start now."""
        return self._policy.skips and not self._policy.must_wait_for(sequence, now)

    def _start(self, sequence: Sequence, draft: Draft, now: float) -> bool:
        """Admit a waiting sequence, on KV that is there already; False if it must wait."""
        if not self._welcome(sequence, now):
            return False
        where = self._kv.where(sequence.seq_id)
        if where is Whereabouts.LOST:
            self._forget(sequence)
            where = None
        # A newcomer whose tokens would not fit now would be preempted soon, or preempt.
        if self.running and not self._could_hold(
            len(sequence.tokens) - self._kv.known(sequence.seq_id, sequence.tokens, sequence.salt)
        ):
            return where is None and self._start_layered(sequence, draft, now)
        if where is not None:
            return self._recall(sequence, draft, now)
        self._share_prefix(sequence, draft)
        if self._kv.where(sequence.seq_id) is not None:
            sequence.fetched = sequence.cached
            self._await(sequence)
            return True
        shared = sequence.computed
        if self._begin(sequence, draft, now):
            return True
        # What it shares cannot be given up while it does, though that may be what is lacking.
        alone = not self.running and not self.returning
        return shared > 0 and alone and self._begin(sequence, draft, now)

    def _begin(self, sequence: Sequence, draft: Draft, now: float) -> bool:
        """Run a waiting sequence from what it has; on False it has nothing."""
        if (most := self._most(sequence, draft, now)) and self._grant(sequence, draft, most):
            self._run(sequence)
            return True
        self._forget(sequence)
        return False

    def _forget(self, sequence: Sequence) -> None:
        """Give up what is computed of a sequence that is to start over."""
        self._kv.free(sequence.seq_id)
        sequence.computed = 0
        if sequence.first_scheduled is None:
            sequence.cached = sequence.fetched = 0

    def _start_layered(self, sequence: Sequence, draft: Draft, now: float) -> bool:
        """Admit a prompt with as many layers as fit, the others going below as it is computed."""
        most = self._most(sequence, draft, now)
        if most < sequence.uncomputed or sequence.request.params.n > 1:
            return False  # every further step would bring all that was computed up again
        length = len(sequence.tokens)
        price = self._activation_bytes(draft.shape_with(sequence, most, False))
        seconds = self._cost.predict(StepLoad().with_sequence(most, length))
        capacity = sequence.request.max_length
        if not self._kv.open_layered(sequence.seq_id, length, capacity, price, seconds):
            return False
        if not self._fits(sequence, most, draft, gentle=False):
            self._forget(sequence)
            return False
        self._run(sequence)
        return True

    def _set_layered_aside(self) -> None:
        """Let prompts that were computed layer by layer wait until all their KV can be here.

        One that is alone goes on as it is: every step brings its layers up, one ahead.
        """
        for sequence in list(self.running):
            if self._kv.is_layered(sequence.seq_id) and sequence.uncomputed == 1:
                others = len(self.running) > 1
                if others or self._kv.could_hold(len(sequence.tokens), soon=False):
                    self.running.remove(sequence)
                    self._policy.yielded(sequence)
                    self._put_back(sequence)

    def _welcome(self, sequence: Sequence, now: float) -> bool:
        """Whether the policy lets `sequence` start while so much lies below.

        One that is part of what lies there only makes it less.
        """
        if self._kv.where(sequence.seq_id) is not None:
            return True
        size = self._kv.token_bytes * len(sequence.tokens)
        return self._policy.admits(sequence, size, self._kv.parked_bytes, now)

    def _recall(self, sequence: Sequence, draft: Draft, now: float) -> bool:
        """Fetch the KV of a parked sequence, and go on if it was still here; False if it waits."""
        price = self._activation_bytes(draft.shape)
        if not self._kv.fetch(sequence.seq_id, price):
            return self._go_on_layered(sequence, draft)
        if self._kv.where(sequence.seq_id) is not None:
            self._await(sequence)
            return True
        self._run(sequence)
        if most := self._most(sequence, draft, now):
            self._grant(sequence, draft, most)
        return True

    def _go_on_layered(self, sequence: Sequence, draft: Draft) -> bool:
        """Let a layered sequence whose KV is too much for the memory run alone."""
        if not self._kv.is_layered(sequence.seq_id) or self.running or self.returning:
            return False
        if not self._grant(sequence, draft, sequence.uncomputed):
            return False
        self._run(sequence)
        return True

    def _await(self, sequence: Sequence) -> None:
        sequence.status = SequenceStatus.RETURNING
        self.returning.append(sequence)

    def _share_prefix(self, sequence: Sequence, draft: Draft) -> None:
        """Begin with KV that another sequence has computed, if there is any."""
        if sequence.wants_scores and sequence.prompt_scored < sequence.num_prompt - 1:
            return  # scores need the logits of every prompt token
        price = self._activation_bytes(draft.shape)
        parent = sequence.parent
        if parent is not None and parent.is_in_memory:
            shared = sequence.num_prompt - 1
            if shared and parent.computed > shared:
                if self._kv.share(parent.seq_id, sequence.seq_id, shared, price):
                    sequence.computed = shared
                return
        sequence.computed = self._kv.adopt(
            sequence.seq_id, sequence.tokens, price, sequence.salt, self._fetching_pays
        )
        sequence.cached = max(sequence.cached, min(sequence.computed, sequence.num_prompt))
