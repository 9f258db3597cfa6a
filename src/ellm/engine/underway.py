"""A step that was launched and whose answers are not in the books yet.

    plan     n      n + 1          n + 2
    launch     n      n + 1          n + 2
    compute    ├── n ───────┼── n + 1 ───────┼── …
    land                    n                n + 1

While a device computes step n, step n + 1 is planned as if n had ended: what n computes counts as
computed, and the tokens that it will answer stand in their sequences as `core.plan.awaited`.  When
n lands they are told.  A sequence that turns out to have ended is in n + 1 for nothing: that part
of its answer is dropped.  Where tokens must be known to choose the next (penalties), n lands first.
"""

from __future__ import annotations

from collections.abc import Collection
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass

from ellm.core.executor import Flight
from ellm.core.plan import StepPlan
from ellm.core.sequence import Sequence


@dataclass(slots=True)
class UnderWay:
    """`sequences` are those of the plan, in its order; the KV of some was `lost` on the way.

    `started` is in the engine clock's seconds.  `foreseeable` says that the next step can be
    planned and launched before this one has landed.
    """

    plan: StepPlan
    sequences: SequenceOf[Sequence]
    flight: Flight
    started: float
    lost: Collection[int] = ()
    foreseeable: bool = True
