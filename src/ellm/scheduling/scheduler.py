"""Who computes how many tokens in the next step: first come, first served.

There is no prefill and no decoding here.  Every sequence has known tokens and computed ones; a
step lets each catch up by some tokens, running sequences before waiting ones, within
`max_num_batched_tokens`.  When memory is short the latest arrival yields: its KV is freed and it
waits at its old place with every token it has, to be computed again.  Since the sequence in
front always gets what it needs, somebody always advances.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable
from typing import Any

from ellm.core.config import SchedulerConfig
from ellm.core.plan import StepPlan, StepShape
from ellm.core.sequence import Sequence, SequenceStatus
from ellm.kv.manager import KvManager
from ellm.scheduling.draft import Draft
from ellm.scheduling.queue import WaitingQueue

# A prompt chunk is halved down to this many tokens before anyone is preempted for it: smaller
# ones would only put the preemption off, at a worse price per token.
SMALLEST_CHUNK = 32


class Scheduler:
    """Plans steps over a KV manager.  `activation_bytes` is the executor's price of a shape."""

    def __init__(
        self,
        config: SchedulerConfig,
        kv: KvManager[Any],
        activation_bytes: Callable[[StepShape], int],
    ) -> None:
        self._config = config
        self._kv = kv
        self._activation_bytes = activation_bytes
        # In order of arrival within a priority: who stands behind yields to who stands in front.
        self.running: list[Sequence] = []
        self.waiting = WaitingQueue()
        self.preemptions = 0

    @property
    def has_work(self) -> bool:
        return bool(self.running) or len(self.waiting) > 0

    def add(self, sequence: Sequence) -> None:
        self.waiting.push(sequence)

    def remove(self, sequence: Sequence, keep_prefix: bool = False) -> None:
        """Forget a sequence that has finished or was aborted; its KV is free at once."""
        if sequence.status is SequenceStatus.RUNNING:
            self.running.remove(sequence)
        self.waiting.remove(sequence)
        sequence.status = SequenceStatus.FINISHED
        self._kv.free(sequence.seq_id, keep=keep_prefix)

    def schedule(self) -> StepPlan | None:
        """The next step, with all its memory granted; None if there is nothing to run."""
        preemptions = self.preemptions
        draft = Draft(self._config.max_num_batched_tokens or 2048)
        for sequence in list(self.running):
            if draft.left and sequence.status is SequenceStatus.RUNNING:
                self._continue(sequence, draft)
        if self.preemptions == preemptions or not self.running:
            self._admit(draft)
        return draft.plan()

    def _continue(self, sequence: Sequence, draft: Draft) -> None:
        """Let a running sequence advance, at the cost of later ones if it must be."""
        while not self._grant(sequence, draft):
            victim = self.running[-1]
            if victim is sequence and len(draft):
                return  # those in front advance, and will preempt it if they need its memory
            self._preempt(victim)
            if victim is sequence:
                return  # alone, and still short: start over in one piece

    def _grant(self, sequence: Sequence, draft: Draft) -> bool:
        """Add as many tokens of `sequence` as memory allows now, if any."""
        most = min(sequence.uncomputed, draft.left)
        count, least = most, min(most, SMALLEST_CHUNK)
        while True:
            if self._fits(sequence, count, draft):
                return True
            if count == least:
                return False
            count = max(least, count // 2)

    def _fits(self, sequence: Sequence, count: int, draft: Draft) -> bool:
        length = sequence.computed + count
        shape = draft.shape_with(sequence, count, self._kv.gathers(length))
        table = self._kv.reserve(sequence.seq_id, length, self._activation_bytes(shape))
        if table is None:
            return False
        draft.add(sequence, count, table, shape)
        return True

    def _preempt(self, sequence: Sequence) -> None:
        """Free the KV of a running sequence.  It keeps its tokens, its seed and its place."""
        self.running.remove(sequence)
        self._kv.free(sequence.seq_id)
        sequence.computed = 0
        sequence.status = SequenceStatus.WAITING
        sequence.preemptions += 1
        self.preemptions += 1
        self.waiting.push(sequence)

    def _admit(self, draft: Draft) -> None:
        skipped = []
        for sequence in self.waiting.drain():
            if not draft.left or len(self.running) >= self._config.max_num_seqs:
                skipped.append(sequence)
                break
            if self._waits_for_parent(sequence):
                skipped.append(sequence)
            elif not self._start(sequence, draft):
                skipped.append(sequence)
                break
        for sequence in skipped:
            self.waiting.push(sequence)

    @staticmethod
    def _waits_for_parent(sequence: Sequence) -> bool:
        """Whether the prompt this sequence could share is being computed right now."""
        parent = sequence.parent
        return (
            parent is not None
            and sequence.num_output == 0
            and not parent.finished
            and parent.computed < parent.num_prompt
        )

    def _start(self, sequence: Sequence, draft: Draft) -> bool:
        """Admit a waiting sequence, on shared KV where there is some; False if it must wait."""
        # A newcomer whose known tokens would not fit now would be preempted soon, or preempt.
        if self.running and not self._kv.could_hold(len(sequence.tokens)):
            return False
        self._share_prefix(sequence, draft)
        if not self._grant(sequence, draft):
            self._kv.free(sequence.seq_id)
            sequence.computed = 0
            return False
        sequence.status = SequenceStatus.RUNNING
        insort(self.running, sequence, key=lambda s: s.order)
        return True

    def _share_prefix(self, sequence: Sequence, draft: Draft) -> None:
        """Begin with KV that another sequence has computed, if there is any."""
        if sequence.wants_scores and sequence.prompt_scored < sequence.num_prompt - 1:
            return  # scores need the logits of every prompt token
        price = self._activation_bytes(draft.shape)
        parent = sequence.parent
        if parent is not None and parent.status is SequenceStatus.RUNNING:
            shared = sequence.num_prompt - 1
            if shared and parent.computed > shared:
                self._take_shared(sequence, parent, shared, price)
                return
        sequence.computed = self._kv.adopt(sequence.seq_id, sequence.tokens, price)
        sequence.cached = max(sequence.cached, min(sequence.computed, sequence.num_prompt))

    def _take_shared(self, sequence: Sequence, parent: Sequence, shared: int, price: int) -> None:
        if self._kv.share(parent.seq_id, sequence.seq_id, shared, price):
            sequence.computed = shared
