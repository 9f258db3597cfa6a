"""What a policy decides: who goes first, how much of a prompt a step takes, who may start."""

from __future__ import annotations

from collections.abc import Collection
from collections.abc import Sequence as SequenceOf
from typing import Protocol

from ellm.core.load import StepLoad
from ellm.core.sequence import Sequence


class Policy(Protocol):
    """Decides for the scheduler, which asks, and learns from the engine, which tells.

    `skips` says whether others may start before a sequence that cannot get its memory now.
    """

    skips: bool

    def rank(self, sequence: Sequence, now: float) -> tuple[float, ...]:
        """Where a sequence with tokens to catch up stands; the lowest goes first.

        At least (priority, lane, key), as `WaitingQueue` has it.
        """
        ...

    def prefill_tokens(
        self,
        sequence: Sequence,
        load: StepLoad,
        decoding: Collection[Sequence],
        now: float,
        most: int,
    ) -> int:
        """How many of `most` tokens of `sequence` a step with `load` should take; 0 for none.

        `decoding` are all the sequences that have only their newest token to compute; `load`
        includes one token of each.
        """
        ...

    def latest_step(self, sequences: Collection[Sequence], now: float) -> float:
        """When the next step must begin to keep every objective of these that can be kept.

        Infinite if none depends on it.
        """
        ...

    def admits(self, sequence: Sequence, kv_bytes: int, parked_bytes: int, now: float) -> bool:
        """Whether a prompt whose KV takes `kv_bytes` may start while so many bytes lie below."""
        ...

    def must_wait_for(self, sequence: Sequence, now: float) -> bool:
        """Whether nobody may start before `sequence` any more, though it cannot start now."""
        ...

    def token(self, sequence: Sequence, now: float) -> None:
        """The last of `sequence.tokens` came out at `now`.

        `first_token` and `last_token` do not know of it yet.
        """
        ...

    def stepped(self, load: StepLoad, seconds: float) -> None:
        """A step took so long; all its tokens have been told."""
        ...

    def yielded(self, sequence: Sequence) -> None:
        """A running sequence has been parked below; `resumed` is called when it runs again."""
        ...

    def resumed(self, sequence: Sequence) -> None: ...

    def victim(self, running: SequenceOf[Sequence]) -> Sequence:
        """Which of these, in order of arrival, shall yield its memory."""
        ...

    def finished(self, sequence: Sequence) -> None:
        """`sequence` has its finish reason and will not run again."""
        ...
