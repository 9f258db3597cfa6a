"""The learning-rate schedule: warm-up, a stable stretch, and a linear decay to zero.

The decay may start at a given step, when a deadline draws near, or on request; while it runs it
may be stretched to a later end. Promise: the list of decays, in steps, repeats the run exactly.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from itertools import pairwise

WARMUP_STEPS = 60
DECAY_SHARE = 0.4  # of all steps
LONG_STEPS_ARE_SLOWER = 1.25  # a margin for the decay, which has more long windows
LONG_EVERY_STABLE = 16
LONG_EVERY_DECAY = 2

Decay = tuple[int, int]


@dataclass
class Schedule:
    """Each decay `(start, end)` falls from the rate at its start to zero at its end.

    A later decay replaces the one before it from its own start on.
    """

    decays: list[Decay] = field(default_factory=list)

    @property
    def steps(self) -> int | None:
        """How many steps the run takes, once that is known."""
        return self.decays[-1][1] if self.decays else None

    def begin_decay(self, step: int) -> None:
        """Start the decay at this step, as long as `DECAY_SHARE` of the whole."""
        length = max(1, round(step * DECAY_SHARE / (1 - DECAY_SHARE)))
        self.decays.append((step, step + length))

    def is_due(self, step: int, seconds_per_step: float, finish_by: float) -> bool:
        """Whether the decay must start now to end by the clock time `finish_by`."""
        decay = step * DECAY_SHARE / (1 - DECAY_SHARE)
        return time.time() + decay * seconds_per_step * LONG_STEPS_ARE_SLOWER >= finish_by

    def factor(self, step: int) -> float:
        """What the peak learning rates are multiplied by at this step."""
        factor = min(1.0, (step + 1) / WARMUP_STEPS)
        for (start, end), (until, _) in pairwise([*self.decays, (step, step)]):
            if step >= start:
                factor *= (end - min(step, until)) / (end - start)
        return factor

    def is_long(self, step: int) -> bool:
        """Whether this step reads windows of full context; more often during the decay."""
        every = LONG_EVERY_DECAY if self.is_decaying(step) else LONG_EVERY_STABLE
        return step % every == every - 1

    def is_decaying(self, step: int) -> bool:
        """Whether the decay has started at this step."""
        return bool(self.decays) and step >= self.decays[0][0]

    def is_done(self, step: int) -> bool:
        """Whether all steps are taken."""
        return self.steps is not None and step >= self.steps

    def adopt(self, planned: Schedule, step: int) -> None:
        """Take on the decays of a plan that go beyond this schedule's own, from `step` on."""
        for start, end in planned.decays[len(self.decays) :]:
            if start < step:
                raise ValueError(f"a decay from step {start} is too late at step {step}")
            self.decays.append((start, end))


def decay(text: str) -> Decay:
    """`START:END`, in steps."""
    start, end = (int(part) for part in text.split(":"))
    if not 0 <= start < end:
        raise ValueError(text)
    return start, end


def clock_time(text: str) -> float:
    """The next time the local clock shows HH:MM, in seconds since the epoch."""
    now = time.localtime()
    hour, minute = (int(part) for part in text.split(":"))
    at = time.mktime((now.tm_year, now.tm_mon, now.tm_mday, hour, minute, 0, 0, 0, -1))
    return at if at > time.time() else at + 86_400
