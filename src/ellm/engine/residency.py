"""Whose weights are in memory: who sleeps, who wakes, and who makes room for whom.

A model that is wanted and asleep claims room for its weights.  Room comes from what is idle; if
that is not enough, the others give way in steps, each after a longer wait:

    at once        models without requests go to sleep, the one unused for longest first
    YIELD_AFTER    running sequences give up their KV for a while, one at a time
    SLICE          a model that has been awake that long goes to sleep with its requests waiting

so that models that do not fit together take turns, and nobody waits for ever.  Before the last of
these nobody gives anything up where that would not be enough.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial

from ellm.core.clock import Clock
from ellm.core.errors import BudgetError, ModelBusy, WakeFailed
from ellm.core.units import format_bytes
from ellm.engine.errand import Errand, Helper, Then, send
from ellm.engine.model import Model, nothing_to_wait_for
from ellm.engine.weights import ModelWeights
from ellm.memory.balloon import Balloon, Cost
from ellm.memory.pool import ChunkPool
from ellm.memory.tiers import Tiers
from ellm.memory.transfer import Transfer, TransferState
from ellm.obs.models import ModelState

# How long an engine without work keeps its warm memory before giving it back, in seconds.
REST_AFTER = 0.5
# How long it keeps prefixes in memory for those that begin alike, in seconds.
PREFIXES_AFTER = 60.0
# How often to look for room that was not there, in seconds.
RETRY = 0.05
# How long a model is spared by those that only want more KV after its last request, in seconds.
SPARED = 5.0
# How long the first in line waits before running sequences must yield to it, in seconds.
YIELD_AFTER = 0.5
# The share of the pool that is to be free beside the weights of whoever wakes: where weights take
# the last chunk, those who run preempt each other for every token.
HEADROOM = 0.02
# How long a model may keep its weights while another waits for their room, in seconds.
SLICE = 5.0


@dataclass(slots=True, eq=False)
class Claim:
    """Weights that wait for room, since when, and who is told of it."""

    weights: ModelWeights
    since: float
    then: Then


@dataclass(frozen=True, slots=True)
class Fetch:
    """Bytes on their way up, and who is told whether they came."""

    weights: ModelWeights
    transfer: Transfer
    then: Then


class IdleModel:
    """All that a model without requests holds, as the balloon asks for it."""

    name = "model"
    cost = Cost.MODEL

    def __init__(self, model: Model, residency: Residency) -> None:
        self._model = model
        self._residency = residency
        self.group, self.owner = model.name, ""

    @property
    def used(self) -> float:
        return self._model.idle_since or 0.0

    def idle(self) -> int:
        return self._residency.spare_of(self._model, SPARED)

    def release(self, count: int) -> int:
        return self._residency.lay_to_sleep(self._model) if self.idle() else 0


class Residency:
    """Lays models to sleep and wakes them, on the step thread."""

    def __init__(
        self,
        pool: ChunkPool,
        balloon: Balloon,
        clock: Clock,
        helper: Helper,
        models: Mapping[str, Model],
        refuse: Callable[[Model, WakeFailed], None],
        idle_release: float | None,
        tiers: Tiers | None,
    ) -> None:
        self._balloon = balloon
        self._pool = pool
        self._clock = clock
        self._helper = helper
        self._models = models
        self._refuse = refuse
        self._idle_release = idle_release
        self._tiers = tiers
        self._claims: deque[Claim] = deque()
        self._fetches: list[Fetch] = []

    def tend(self) -> None:
        """See who has gone idle, who is wanted, and who can be given room."""
        now = self._clock.now()
        if self._fetches:
            self._settle_fetches()
        for model in self._models.values():
            if model.state is ModelState.FALLING_ASLEEP:
                self._watch(model)
            if not model.engine.is_idle:
                model.idle_since, model.rested, model.forgetful = None, False, False
                if model.state is ModelState.ASLEEP:
                    self.wake(model)
            elif model.idle_since is None:
                model.idle_since = now
            elif model.state is ModelState.AWAKE:
                self._tend_idle(model, now - model.idle_since)
        if self._pool.free < 0:
            self.fit()
        if self._claims:
            self._serve_claims(now)

    def fit(self) -> None:
        """Have as much given back as it takes for the pool to hold no more than its total.

        What is being woken right now cannot be, and is looked after when it is awake.
        """
        while not self._balloon.shrink() and self.give_way(None, math.inf):
            pass

    def _tend_idle(self, model: Model, idle: float) -> None:
        if self._idle_release is not None and idle >= self._idle_release:
            self.retire(model)
        elif idle >= PREFIXES_AFTER and not model.forgetful:
            model.forgetful = True
            model.engine.release_idle()
        elif idle >= REST_AFTER and not model.rested:
            model.rested = True
            model.engine.rest()

    def patience(self) -> float | None:
        """Seconds until `tend` will find something to do, should nothing happen; None for ever."""
        if self._claims or self._fetches:
            return RETRY
        now = self._clock.now()
        due = []
        for model in self._models.values():
            if model.state is ModelState.FALLING_ASLEEP:
                return RETRY
            if model.state is not ModelState.AWAKE or not model.engine.is_idle:
                continue
            if model.idle_since is None:
                return 0.0
            if not model.rested:
                due.append(model.idle_since + REST_AFTER)
            if not model.forgetful:
                due.append(model.idle_since + PREFIXES_AFTER)
            if self._idle_release is not None:
                due.append(model.idle_since + self._idle_release)
        return max(0.0, min(due) - now) if due else None

    def spare_of(self, model: Model, after: float = 0.0) -> int:
        """Chunks that others gain if the model sleeps: 0 while it has requests, is not awake, or
        has been idle for less than `after` seconds.
        """
        since = model.idle_since
        if model.state is ModelState.FALLING_ASLEEP:
            return self._pool.ledger.group_spare(model.name)
        if model.state is not ModelState.AWAKE or not model.engine.is_idle:
            return 0
        if after and (since is None or self._clock.now() - since < after):
            return 0
        return self._pool.ledger.group_spare(model.name)

    def retire(self, model: Model) -> Future[None]:
        """Have an idle model give all its memory back, the weights' bytes below if there is room.

        Done when it sleeps; fails with ModelBusy if a request comes first.  Raises ModelBusy
        while it has requests, or is not awake.
        """
        if model.state is ModelState.FALLING_ASLEEP:
            return model.changing
        if model.state is ModelState.ASLEEP:
            return nothing_to_wait_for()
        if model.state is not ModelState.AWAKE:
            raise ModelBusy(f"{model.name} is {model.state.value}: wait until it is awake")
        if not model.engine.is_idle:
            count = len(model.engine.request_ids)
            raise ModelBusy(
                f"{model.name} has {count} requests: wait until they have ended, or abort them"
            )
        model.engine.release_idle()
        model.changing = Future()
        model.state = ModelState.FALLING_ASLEEP
        if self._tiers is None or not model.weights.send_below(self._tiers):
            self._put_away(model)
            self._pool.trim()
        return model.changing

    def _watch(self, model: Model) -> None:
        """See whether a model that is falling asleep has been asked for, or has fallen."""
        assert self._tiers is not None
        self._tiers.poll()
        if not model.engine.is_idle:
            self._call_back(model)
        elif not model.weights.is_leaving:
            self._put_away(model)
            self._pool.trim()

    def _call_back(self, model: Model) -> None:
        """A model that is falling asleep is wanted, and still has all its weights."""
        model.weights.forget_below()
        model.state, model.idle_since = ModelState.AWAKE, None
        model.changing.set_exception(ModelBusy(f"{model.name} was asked for meanwhile"))

    def lay_to_sleep(self, model: Model) -> int:
        """Have an idle model give all its memory back at once; how many chunks became free."""
        assert model.state is ModelState.FALLING_ASLEEP or model.engine.is_idle, model
        return self._put_away(model)

    def _put_away(self, model: Model) -> int:
        free = self._pool.free
        model.engine.release_idle()
        model.weights.drop()
        if model.state is ModelState.FALLING_ASLEEP:
            model.changing.set_result(None)
        model.state = ModelState.ASLEEP
        return self._pool.free - free

    def _suspend(self, model: Model) -> None:
        """Put a model away whose requests go on waiting for it."""
        while model.engine.yield_memory():
            pass
        self._put_away(model)

    def wake(self, model: Model) -> Future[None]:
        """Have the model woken; done when it is awake.

        Fails with WakeFailed, and so do the requests that wait for it.
        """
        if model.state is ModelState.FALLING_ASLEEP:
            self._call_back(model)
        if model.is_up:
            return nothing_to_wait_for()
        if model.state is ModelState.ASLEEP:
            model.state = ModelState.WAKING
            model.changing = send(self._wake(model))
        return model.changing

    def _wake(self, model: Model) -> Errand:
        started = self._clock.now()
        try:
            yield partial(self.claim, model.weights)
            if (yield partial(self._fetch, model.weights)):
                yield partial(self._helper.do, model.weights.enlarge_pages)
            else:
                yield partial(self._helper.do, model.weights.read)
        except Exception as error:  # an unreadable file, or a machine without memory
            model.weights.drop()
            model.state = ModelState.ASLEEP
            failure = WakeFailed(f"{model.name} could not be woken: {error}")
            self._refuse(model, failure)
            raise failure from error
        model.state, model.idle_since = ModelState.AWAKE, None
        model.awake_since = self._clock.now()
        model.wake_seconds = model.awake_since - started

    def _fetch(self, weights: ModelWeights, then: Then) -> None:
        """Bring the bytes up from below; `then` is told whether they were there."""
        transfer = weights.fetch()
        if transfer is None:
            weights.forget_below()
            then(False, None)
        else:
            self._fetches.append(Fetch(weights, transfer, then))

    def _settle_fetches(self) -> None:
        assert self._tiers is not None
        self._tiers.poll()
        ended = [fetch for fetch in self._fetches if not fetch.transfer.pending]
        self._fetches = [fetch for fetch in self._fetches if fetch not in ended]
        for fetch in ended:
            fetch.weights.forget_below()
            fetch.then(fetch.transfer.state is TransferState.DONE, None)

    def claim(self, weights: ModelWeights, then: Then) -> None:
        """Have memory put behind `weights` as soon as there is room; `then` is told.

        It is told a BudgetError at once if there never can be, or if the machine refuses.
        """
        reach = self._pool.ledger.reach(weights.owner)
        if weights.chunks > reach:
            size, room = (format_bytes(n * self._pool.chunk_bytes) for n in (weights.chunks, reach))
            reason = f"its weights take {size}, and it can never hold more than {room}"
            remedy = f"raise --memory above {size}, or the ceiling or floors that were stated"
            then(None, BudgetError(f"{reason}: {remedy}"))
            return
        self._claims.append(Claim(weights, self._clock.now(), then))
        if len(self._claims) == 1:
            self._serve_claims(self._clock.now())

    def _serve_claims(self, now: float) -> None:
        """In the order in which they came: a large model is not passed over for ever.

        It is passed over while nobody is awake, who alone could make more room for it.
        """
        for claim in list(self._claims):
            if self._has_room(claim, now):
                self._claims.remove(claim)
                self._settle_claim(claim)
            elif any(model.is_up for model in self._models.values()):
                return

    @staticmethod
    def _settle_claim(claim: Claim) -> None:
        try:
            claim.weights.take()
        except BudgetError as refusal:
            claim.then(None, refusal)
        else:
            claim.then(None, None)

    def _has_room(self, claim: Claim, now: float) -> bool:
        """Whether the claim has room now, or once others have given way as it has waited long.

        Nobody gives way where that would not do.
        """
        wants = {claim.weights.owner: self._wanted(claim.weights)}
        make_room = partial(self._balloon.make_room, lambda: wants, claim.weights.group)
        if make_room(Cost.PREFIX):
            return True
        waited = now - claim.since
        if waited < SLICE and not self._could_have(claim, yielding=waited >= YIELD_AFTER):
            return False
        while not make_room():
            if not self.give_way(None, waited):
                return False
        return True

    def _could_have(self, claim: Claim, yielding: bool) -> bool:
        """Whether there is room when all idle models sleep and, if `yielding`, nobody runs."""
        ledger = self._pool.ledger
        staying = [model for model in self._models.values() if not self.spare_of(model)]
        held = sum(
            ledger.held(model.weights.owner) if yielding else ledger.group_held(model.name)
            for model in staying
        )
        return self._wanted(claim.weights) <= self._pool.total - held

    def _wanted(self, weights: ModelWeights) -> int:
        """Chunks for weights and some to work with, as far as it can ever have them."""
        most = self._pool.ledger.reach(weights.owner)
        return min(most, weights.chunks + int(HEADROOM * self._pool.total))

    def give_way(self, besides: Model | None, waited: float) -> bool:
        """Have others give up something for one who has `waited` so many seconds; whether they did.

        Nobody gives what is promised to him.  After infinite seconds nobody is spared.
        """
        others = [
            model
            for model in self._models.values()
            if model is not besides
            and (model.is_up or model.state is ModelState.FALLING_ASLEEP)
            and self._pool.ledger.group_spare(model.name)
        ]
        idle = [model for model in others if self.spare_of(model)]
        if idle:
            self.lay_to_sleep(min(idle, key=lambda model: model.idle_since or 0.0))
            return True
        others.sort(key=lambda model: -self._pool.ledger.group_spare(model.name))
        if waited >= YIELD_AFTER and any(model.engine.yield_memory() for model in others):
            return True
        if waited >= SLICE:
            since = self._clock.now() - (0.0 if math.isinf(waited) else SLICE)
            for model in others:
                if model.state is ModelState.AWAKE and model.awake_since <= since:
                    self._suspend(model)
                    return True
        return False
