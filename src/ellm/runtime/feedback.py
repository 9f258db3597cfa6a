"""The tokens that a step chose: where the next step finds them, and on their way to the host.

    fresh ── send ─▶ latest ─┬─▶ ids of the next step that are awaited
                             └─▶ the host, when someone asks

So a step can be launched before the host knows what the step before it has answered.  Until it has
been launched whole it can be launched again: what it awaits is still there.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Sent = Callable[[], list[int]]
"""Waits for tokens that were sent to the host."""

# Steps whose tokens have been sent and not been asked for: one under way, and one launched ahead.
_UNDER_WAY = 2


class Feedback:
    """Room for the answers to `rows` tasks of two steps, int64 by the place of the task.

    Beside the budget, as the little that it is: 16 bytes a row, and as many pinned ones.
    """

    def __init__(self, rows: int, device: torch.device) -> None:
        self.latest, self.fresh = torch.zeros(2, rows, dtype=torch.int64, device=device).unbind()
        self._landings: list[Tensor] = []
        if device.type == "cuda":
            self._landings = [
                torch.zeros(rows, dtype=torch.int64, pin_memory=True) for _ in range(_UNDER_WAY)
            ]

    def send(self, count: int) -> Sent:
        """Begin to bring the first `count` fresh tokens to the host, as they are when all work so
        far is done.  They are the latest now.
        """
        self.latest, self.fresh = self.fresh, self.latest
        tokens = self.latest[:count]
        if not self._landings:
            known: list[int] = tokens.tolist()
            return lambda: known
        landing = self._landings.pop(0)
        self._landings.append(landing)
        there = landing[:count]
        there.copy_(tokens, non_blocking=True)
        arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
        arrived.record()

        def wait() -> list[int]:
            arrived.synchronize()
            numbers: list[int] = there.tolist()
            return numbers

        return wait
