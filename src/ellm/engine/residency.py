"""Whose weights are in memory: who sleeps, who wakes, and who makes room for whom."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial

from ellm.core.clock import Clock
from ellm.core.errors import DriverError, ModelBusy, WakeFailed
from ellm.engine.errand import Errand, Helper, Then, send
from ellm.engine.model import Model, ModelState
from ellm.engine.weights import ModelWeights
from ellm.memory.pool import ChunkPool

# How long an engine without work keeps its warm memory before giving it back, in seconds.
REST_AFTER = 0.5
# How often to look for room that was not there, in seconds.
RETRY = 0.05


@dataclass(slots=True, eq=False)
class Claim:
    """Weights that wait for room, since when, and who is told of it."""

    weights: ModelWeights
    since: float
    then: Then


class Residency:
    """Lays models to sleep and wakes them, on the step thread."""

    def __init__(
        self,
        pool: ChunkPool,
        clock: Clock,
        helper: Helper,
        models: Mapping[str, Model],
        refuse: Callable[[Model, WakeFailed], None],
        idle_release: float | None,
    ) -> None:
        self._pool = pool
        self._clock = clock
        self._helper = helper
        self._models = models
        self._refuse = refuse
        self._idle_release = idle_release
        self._claims: deque[Claim] = deque()

    def tend(self) -> None:
        """See who has gone idle, who is wanted, and who can be given room."""
        now = self._clock.now()
        for model in self._models.values():
            if not model.engine.is_idle:
                model.idle_since, model.rested = None, False
                if model.state is ModelState.ASLEEP:
                    self.wake(model)
            elif model.idle_since is None:
                model.idle_since = now
            elif model.state is ModelState.AWAKE:
                self._tend_idle(model, now - model.idle_since)
        if self._claims:
            self._serve_claims(now)

    def _tend_idle(self, model: Model, idle: float) -> None:
        if self._idle_release is not None and idle >= self._idle_release:
            self.lay_to_sleep(model)
            self._pool.trim()
        elif idle >= REST_AFTER and not model.rested:
            model.rested = True
            model.engine.rest()

    def patience(self) -> float | None:
        """Seconds until `tend` will find something to do, should nothing happen; None for ever."""
        if self._claims:
            return RETRY
        now = self._clock.now()
        due = []
        for model in self._models.values():
            if model.idle_since is None or model.state is not ModelState.AWAKE:
                continue
            if not model.rested:
                due.append(model.idle_since + REST_AFTER)
            if self._idle_release is not None:
                due.append(model.idle_since + self._idle_release)
        return max(0.0, min(due) - now) if due else None

    def lay_to_sleep(self, model: Model) -> int:
        """Give back all memory of an idle model; how many chunks became free.

        Raises ModelBusy while it has requests, or is not awake.
        """
        if model.state is ModelState.ASLEEP:
            return 0
        if model.state is not ModelState.AWAKE:
            raise ModelBusy(f"{model.name} is {model.state.value}: wait until it is awake")
        if not model.engine.is_idle:
            count = len(model.engine.request_ids)
            raise ModelBusy(
                f"{model.name} has {count} requests: wait until they have ended, or abort them"
            )
        free = self._pool.free
        model.engine.rest()
        model.weights.drop()
        model.state = ModelState.ASLEEP
        return self._pool.free - free

    def wake(self, model: Model) -> Future[None]:
        """Have the model woken; done when it is awake.

        Fails with WakeFailed, and so do the requests that wait for it.
        """
        if model.state is ModelState.ASLEEP:
            model.state = ModelState.WAKING
            model.changing = send(self._wake(model))
        if model.state is not ModelState.WAKING:
            raise ModelBusy(f"{model.name} is {model.state.value} already")
        assert model.changing is not None, model
        return model.changing

    def _wake(self, model: Model) -> Errand:
        started = self._clock.now()
        try:
            yield partial(self.claim, model.weights)
            yield partial(self._helper.do, model.weights.read)
        except Exception as error:  # an unreadable file, or a machine without memory
            model.weights.drop()
            model.state = ModelState.ASLEEP
            failure = WakeFailed(f"{model.name} could not be woken: {error}")
            self._refuse(model, failure)
            raise failure from error
        model.state = ModelState.AWAKE
        model.awake_since = self._clock.now()
        model.wake_seconds = model.awake_since - started

    def claim(self, weights: ModelWeights, then: Then) -> None:
        """Have memory put behind `weights` as soon as there is room; `then` is told."""
        self._claims.append(Claim(weights, self._clock.now(), then))
        if len(self._claims) == 1:
            self._serve_claims(self._clock.now())

    def _serve_claims(self, now: float) -> None:
        """In the order in which they came: a large model is not passed over for ever."""
        while self._claims and self._make_room(self._claims[0], now):
            claim = self._claims.popleft()
            try:
                claim.weights.take()
            except DriverError as refusal:
                claim.then(None, refusal)
            else:
                claim.then(None, None)

    def _make_room(self, claim: Claim, now: float) -> bool:
        def lacks() -> bool:
            return self._pool.available(claim.weights.owner) < claim.weights.chunks

        for model in self._by_idleness():
            if not lacks():
                return True
            self.lay_to_sleep(model)
        return not lacks()

    def _by_idleness(self) -> list[Model]:
        """Models that could sleep, the one unused for longest first."""
        awake = [m for m in self._models.values() if m.state is ModelState.AWAKE]
        idle = [(m.idle_since or 0.0, m) for m in awake if m.engine.is_idle]
        return [model for _, model in sorted(idle, key=lambda pair: pair[0])]
