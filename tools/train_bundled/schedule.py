"""The learning-rate schedule: warm-up, a stable stretch, and a linear decay to zero.

The decay may start at a given step, when a deadline draws near, or on request. Promise: once it
has started the rest is fixed in steps, so `Schedule(decay_start, steps)` repeats the run exactly.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

WARMUP_STEPS = 60
DECAY_SHARE = 0.4  # of all steps
LONG_STEPS_ARE_SLOWER = 1.25  # a margin for the decay, which has more long windows
LONG_EVERY_STABLE = 16
LONG_EVERY_DECAY = 2


@dataclass
class Schedule:
    """Where the run is going: `steps` is known once `decay_start` is."""

    decay_start: int | None = None
    steps: int | None = None

    @classmethod
    def of_steps(cls, steps: int, decay_start: int | None) -> Schedule:
        """The schedule of a run whose length is known beforehand."""
        start = round(steps * (1 - DECAY_SHARE)) if decay_start is None else decay_start
        return cls(start, steps)

    def begin_decay(self, step: int) -> None:
        """Start the decay at this step, as long as `DECAY_SHARE` of the whole."""
        self.decay_start = step
        self.steps = step + max(1, round(step * DECAY_SHARE / (1 - DECAY_SHARE)))

    def is_due(self, step: int, seconds_per_step: float, finish_by: float) -> bool:
        """Whether the decay must start now to end by the clock time `finish_by`."""
        decay = step * DECAY_SHARE / (1 - DECAY_SHARE)
        return time.time() + decay * seconds_per_step * LONG_STEPS_ARE_SLOWER >= finish_by

    def factor(self, step: int) -> float:
        """What the peak learning rates are multiplied by at this step."""
        factor = min(1.0, (step + 1) / WARMUP_STEPS)
        if self.decay_start is not None and self.steps is not None and step >= self.decay_start:
            factor *= (self.steps - step) / (self.steps - self.decay_start)
        return factor

    def is_long(self, step: int) -> bool:
        """Whether this step reads windows of full context; more often during the decay."""
        every = LONG_EVERY_DECAY if self.is_decaying(step) else LONG_EVERY_STABLE
        return step % every == every - 1

    def is_decaying(self, step: int) -> bool:
        """Whether the decay has started at this step."""
        return self.decay_start is not None and step >= self.decay_start

    def is_done(self, step: int) -> bool:
        """Whether all steps are taken."""
        return self.steps is not None and step >= self.steps


def clock_time(text: str) -> float:
    """The next time the local clock shows HH:MM, in seconds since the epoch."""
    now = time.localtime()
    hour, minute = (int(part) for part in text.split(":"))
    at = time.mktime((now.tm_year, now.tm_mon, now.tm_mday, hour, minute, 0, 0, 0, -1))
    return at if at > time.time() else at + 86_400
