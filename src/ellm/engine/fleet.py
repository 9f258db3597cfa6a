"""Several engines over one pool, stepped in turn.

requests ─▶ model A ─▶ engine A ─┐
requests ─▶ model B ─▶ engine B ─┴─ one step at a time ─▶ news
                         │
            pool: chunks go to whoever runs
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial

from ellm.core.clock import Clock
from ellm.core.errors import BudgetError, ConfigError, EllmError, ModelBusy, ModelNotFound
from ellm.core.output import SequenceOutput
from ellm.core.request import Request
from ellm.core.units import format_bytes
from ellm.engine.errand import Errand, Helper, Then, send
from ellm.engine.model import Model, Tenant
from ellm.engine.residency import IdleModel, Residency
from ellm.kv.room import Owners
from ellm.memory.balloon import Balloon
from ellm.memory.pool import ChunkPool
from ellm.memory.tiers import Tiers
from ellm.obs.models import ModelState

# Of so many steps one is that of the model that has waited longest, whatever objectives say.
IN_TURN = 8
# An objective that can wait for so many seconds yet does not press.
PRESSING = 1.0


@dataclass(frozen=True, slots=True)
class Refusal:
    """Requests that end with an error instead of news."""

    request_ids: list[str]
    error: EllmError


class EngineFleet:
    """Models by name.  Everything but `check_request` belongs to one thread."""

    def __init__(
        self,
        pool: ChunkPool,
        balloon: Balloon,
        clock: Clock,
        helper: Helper,
        idle_release: float | None = None,
        tiers: Tiers | None = None,
    ) -> None:
        self.pool = pool
        self.stalled = False
        self._balloon = balloon
        self._clock = clock
        self._helper = helper
        self._refusals: list[Refusal] = []
        self._models: dict[str, Model] = {}
        self._loading: set[str] = set()
        self._turns: deque[Model] = deque()
        self._steps = 0
        self._leaving: list[tuple[Model, Then]] = []
        self._residency = Residency(
            pool, balloon, clock, helper, self._models, self._refuse_all, idle_release, tiers
        )

    @property
    def has_work(self) -> bool:
        """Whether `step` has something to run or to report."""
        return any(model.can_step for model in self._turns)

    @property
    def states(self) -> dict[str, ModelState]:
        """Every model's, those on their way in included; from any thread."""
        states = dict.fromkeys(self._loading, ModelState.LOADING)
        return states | {name: model.state for name, model in list(self._models.items())}

    def model(self, name: str) -> Model:
        """Raises ModelNotFound."""
        try:
            return self._models[name]
        except KeyError:
            served = ", ".join(self._models) or "none"
            raise ModelNotFound(f"no model {name!r} is served here; served: {served}") from None

    def patience(self) -> float | None:
        """Seconds that one may wait for an order before the next `step`; None for ever."""
        return self._residency.patience()

    def check_request(self, name: str, request: Request, queued: int = 0) -> None:
        """Raise what stands against a request: ModelNotFound, ContextOverflow or QueueFull."""
        model = self.model(name)
        if model.state is ModelState.LEAVING:
            raise ModelNotFound(f"model {name!r} is being unloaded")
        model.engine.check_request(request, queued)

    def enqueue(self, name: str, request: Request) -> None:
        """Queue a request that `check_request` has let in; a sleeping model will be woken."""
        model = self._models.get(name)
        if model is None or model.state is ModelState.LEAVING:
            error = ModelNotFound(f"model {name!r} was unloaded")
            self._refusals.append(Refusal([request.request_id], error))
        else:
            model.engine.enqueue(request)

    def abort(self, name: str, request_id: str, index: int | None = None) -> None:
        if name in self._models:
            self._models[name].engine.abort(request_id, index)

    def stop(self, name: str, request_id: str, index: int) -> None:
        if name in self._models:
            self._models[name].engine.stop(request_id, index)

    def step(self) -> list[SequenceOutput]:
        """Step the engine whose turn it is, and report what happened since the last call.

        The turn is that of the engine whose objectives can wait the least.  Where none presses,
        and in one step of `IN_TURN`, it is that of the engine that has waited longest.
        One that has work but no memory for it passes its turn on; when all do, it is `stalled`.
        """
        self._residency.tend()
        self.stalled = False
        news: list[SequenceOutput] = []
        for model in self._order():
            if model.can_step:
                self._turns.remove(model)
                self._turns.append(model)
                news += self._step(model)
                self.stalled = model.stalled_since is not None
                if not self.stalled:
                    break
        if self._leaving:
            self._see_off()
        return news

    def _order(self) -> list[Model]:
        """Models that can step, whose turn it is first."""
        able = [model for model in self._turns if model.can_step]
        self._steps += 1
        if len(able) > 1 and self._steps % IN_TURN:
            horizon = self._clock.now() + PRESSING
            able.sort(key=lambda model: min(model.engine.latest_step, horizon))
        return able

    def _step(self, model: Model) -> list[SequenceOutput]:
        """One step; if it has lacked memory for long, at the cost of others."""
        news = model.engine.step()
        if model.engine.obstacle is None:
            model.stalled_since = None
            return news
        now = self._clock.now()
        if model.stalled_since is None:
            model.stalled_since = now
        while model.engine.obstacle is not None:
            if not self._residency.give_way(model, now - model.stalled_since):
                return news
            news += model.engine.step()
        model.stalled_since = None
        return news

    def take_refusals(self) -> list[Refusal]:
        """What was refused since the last call, and is not in any news."""
        taken, self._refusals = self._refusals, []
        return taken

    def sleep(self, name: str) -> Future[None]:
        """Have a model without requests give all its memory back.

        Raises ModelNotFound, or ModelBusy while it has requests or is not awake.
        """
        return self._residency.retire(self.model(name))

    def wake(self, name: str) -> Future[None]:
        """Have a model woken; fails with WakeFailed.  Raises ModelNotFound."""
        return self._residency.wake(self.model(name))

    def resize(self, budget: int) -> None:
        """Change the budget to that many bytes.

        What no longer fits is given back before this returns: idle memory, then sleeping models,
        then running sequences, which go on later.  Raises BudgetError, and changes nothing, if
        some model could not serve its longest context even alone, or floors do not fit.
        """
        before = self.pool.total
        total = budget // self.pool.chunk_bytes
        if total < 1:
            raise BudgetError(f"{format_bytes(budget)} are less than one chunk: say more")
        self.pool.resize(total)
        try:
            for model in self._models.values():
                model.engine.require_context()
        except BudgetError:
            self.pool.resize(before)
            raise
        self._residency.fit()

    def load(
        self,
        name: str,
        settle: Callable[[], Tenant],
        floor: int = 0,
        ceiling: int | None = None,
    ) -> Future[None]:
        """Take in a model, whose address ranges `settle` reserves; done when it is awake.

        `floor` and `ceiling` are limits of all it holds, in chunks.  If anything fails, nothing is
        left of it.  Raises ConfigError for a name that is taken.
        """
        if name in self._models or name in self._loading:
            raise ConfigError(
                f"there is a model {name!r} already: serve one of them under another name"
            )
        self._loading.add(name)
        return send(self._load(name, settle, floor, ceiling))

    def _load(
        self, name: str, settle: Callable[[], Tenant], floor: int, ceiling: int | None
    ) -> Errand:
        try:
            self._open_accounts(name, floor, ceiling)
            tenant = settle()
            try:
                yield partial(self._residency.claim, tenant.weights)
                yield partial(self._helper.do, tenant.weights.read)
                engine = tenant.engine()
            except BaseException:
                tenant.leave()
                raise
        except BaseException:
            self._close_accounts(name)
            raise
        finally:
            self._loading.remove(name)
        model = Model(name, tenant, engine, self._clock.now())
        self._models[name] = model
        self._turns.append(model)
        model.source = IdleModel(model, self._residency)
        self._balloon.register(model.source)

    def _open_accounts(self, name: str, floor: int, ceiling: int | None) -> None:
        owners, ledger = Owners.of(name), self.pool.ledger
        for owner in (owners.weights, owners.kv, owners.activations):
            ledger.join(owner, name)
        ledger.limit_group(name, floor, ceiling)

    def _close_accounts(self, name: str) -> None:
        owners = Owners.of(name)
        for owner in (owners.weights, owners.kv, owners.activations):
            self.pool.ledger.leave(owner)

    def unload(self, name: str) -> Future[None]:
        """Send a model away: it takes no more requests, and goes when those it has have ended.

        Raises ModelNotFound, or ModelBusy while it is falling asleep or being woken.
        """
        model = self.model(name)
        if model.state in (ModelState.WAKING, ModelState.FALLING_ASLEEP):
            raise ModelBusy(f"{name} is {model.state.value}: wait until that has ended")
        if model.state is ModelState.ASLEEP and not model.engine.is_idle:
            raise ModelBusy(f"{name} is about to be woken: wait until it is awake")
        if model.state is not ModelState.LEAVING:
            model.changing = send(self._unload(model))
        return model.changing

    def _unload(self, model: Model) -> Errand:
        model.state = ModelState.LEAVING
        yield lambda then: self._leaving.append((model, then))
        if model.source is not None:
            self._balloon.unregister(model.source)
        model.tenant.leave()
        self._close_accounts(model.name)
        del self._models[model.name]
        self._turns.remove(model)
        self.pool.trim()

    def _see_off(self) -> None:
        """Let those go who have no requests left."""
        gone = [(model, then) for model, then in self._leaving if not model.engine.has_work]
        self._leaving = [pair for pair in self._leaving if pair not in gone]
        for _, then in gone:
            then(None, None)

    def _refuse_all(self, model: Model, error: EllmError) -> None:
        """End every request of a model that cannot serve them."""
        ids = model.engine.request_ids
        for request_id in ids:
            model.engine.abort(request_id)
        model.engine.step()  # nothing runs; the news of the ends are told as an error instead
        if ids:
            self._refusals.append(Refusal(ids, error))

    def check(self) -> None:
        """Assert that the books balance."""
        for model in self._models.values():
            model.engine.check()
            held = self.pool.held(model.weights.owner)
            whole = model.weights.chunks if model.state is not ModelState.ASLEEP else 0
            assert held in (whole, 0), (model, held)
