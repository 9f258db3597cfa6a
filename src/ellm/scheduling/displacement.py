"""Who is parked so that somebody with less time to spare can run.

    running    ████████ by 9.1   ██████ by 4.2   ██████████ by 2.0        must be running again by
    waiting    ░░░░░ due 2.5                                              first token, or next one

A sequence that is ahead of its time per output token can pause and still keep it; one that lost
its objective has nothing to lose.  Those with the most time make way, one step before the newcomer
starts, so that their rows leave while others compute.  So memory is shared in turns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from collections.abc import Sequence as SequenceOf
from typing import Any

from ellm.core.sequence import Sequence, SequenceStatus
from ellm.kv.manager import KvManager
from ellm.scheduling.cost import StepCost
from ellm.scheduling.decoding import load_of
from ellm.scheduling.slo import LATE, SloPolicy

# A victim must have so many steps to spare beside the time that leaving and returning takes.
SPARE_STEPS = 4
# A parked sequence displaces others when its time is as near as so many steps, a newcomer when it
# is as near as so many times its prefill: what can wait often comes true by itself.
NEAR_STEPS = 10
NEAR_PREFILLS = 3.0


class Displacement:
    """Remembers who found no memory in a step, and names who shall make way in the next."""

    def __init__(self, kv: KvManager[Any], policy: SloPolicy, cost: StepCost) -> None:
        self._kv = kv
        self._policy = policy
        self._cost = cost
        self._wishes: list[Sequence] = []

    def wish(self, sequence: Sequence) -> None:
        """A waiting sequence could not have its memory now."""
        self._wishes.append(sequence)

    def victims(
        self, running: SequenceOf[Sequence], pays: Callable[[Sequence], bool], now: float
    ) -> Iterator[Sequence]:
        """Running sequences to be parked before the step, each of which `pays` to park."""
        wishes, self._wishes = self._wishes, []
        decoding = [s for s in running if s.uncomputed == 1 and s.first_token is not None]
        if not wishes or not decoding:
            return
        pace = self._cost.predict(load_of(decoding))
        decoding.sort(key=lambda s: self._policy.resume_by(s, pace))
        spare = self._kv.room.spare_soon
        for wish in wishes:
            if wish.status is not SequenceStatus.WAITING or not self._is_near(wish, running, now):
                continue
            spare -= self._kv.chunks(len(wish.tokens))
            chosen: list[Sequence] = []
            while spare < 0 and decoding:
                victim = decoding.pop()
                leaving = sum(one.computed for one in [*chosen, victim])
                if not self._has_time(victim, leaving, self._policy.due(wish), pace, now):
                    break
                if pays(victim):
                    spare += self._kv.chunks(len(victim.tokens))
                    chosen.append(victim)
            if spare < 0:
                return  # nobody makes way in vain
            yield from chosen

    def _has_time(
        self, victim: Sequence, leaving: int, due: float, pace: float, now: float
    ) -> bool:
        """Whether `victim` can pause, as one of those with `leaving` tokens that go below."""
        by = self._policy.resume_by(victim, pace)
        away = self._kv.park_seconds(leaving)
        return away is not None and by > due and by >= now + away + SPARE_STEPS * pace

    def _is_near(self, wish: Sequence, running: SequenceOf[Sequence], now: float) -> bool:
        """Whether it is time for `wish` to have its memory, and not too late."""
        policy = self._policy
        if policy.rank(wish, now)[1] == LATE:
            return False
        pace = self._cost.predict(load_of([s for s in running if s.uncomputed == 1]))
        if policy.is_parked(wish):
            away = self._kv.park_seconds(wish.computed) or 0.0
            return now >= policy.due(wish) - NEAR_STEPS * pace - away
        if now < policy.due(wish) - NEAR_PREFILLS * policy.prefill_seconds(wish):
            return False
        return policy.could_keep_pace(wish, running, pace)
