"""What a policy decides: who goes first, how much of a prompt a step takes, who may start."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from ellm.core.load import StepLoad
from ellm.core.sequence import Sequence


class Policy(Protocol):
    skips: bool

    def rank(self, sequence: Sequence, now: float) -> tuple[float, ...]: ...

    def prefill_tokens(
        self,
        sequence: Sequence,
        load: StepLoad,
        decoding: Iterable[Sequence],
        now: float,
        most: int,
    ) -> int: ...

    def admits(self, sequence: Sequence, kv_bytes: int, parked_bytes: int, now: float) -> bool: ...

    def must_wait_for(self, sequence: Sequence, now: float) -> bool: ...

    def token(self, sequence: Sequence, now: float) -> None: ...

    def stepped(self, load: StepLoad, seconds: float) -> None: ...
