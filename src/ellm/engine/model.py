"""A model of the fleet: its engine, its weights, and whether it is awake."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Protocol

from ellm.engine.engine import Engine
from ellm.engine.weights import ModelWeights
from ellm.memory.balloon import Source
from ellm.obs.models import ModelState


def nothing_to_wait_for() -> Future[None]:
    """A future that is done."""
    done: Future[None] = Future()
    done.set_result(None)
    return done


class Tenant(Protocol):
    """What a fleet must be able to ask of a model; its address ranges are reserved."""

    @property
    def weights(self) -> ModelWeights: ...

    def engine(self) -> Engine:
        """Its engine, asked for once, when the weights have been read.

        Raises BudgetError if it could not run.
        """
        ...

    def leave(self) -> None:
        """Give back all memory and all ranges, whatever there is of them."""
        ...


@dataclass(slots=True, eq=False)
class Model:
    """A tenant that has its engine.

    `idle_since` is when the model was first seen without requests, None while it has some.

    `stalled_since` is when it first had work but no memory for any of it, None while it goes on.
    `rested` says that its idle memory is back in the pool, `forgetful` that its kept prefixes are
    too; `awake_since` when it last awoke;
    `wake_seconds` how long that took.  `changing` is done but while its state does; `source`
    is how the balloon knows it.
    """

    name: str
    tenant: Tenant
    engine: Engine
    awake_since: float
    state: ModelState = ModelState.AWAKE
    idle_since: float | None = None
    stalled_since: float | None = None
    rested: bool = False
    forgetful: bool = False
    wake_seconds: float | None = None
    source: Source | None = field(default=None, repr=False)
    changing: Future[None] = field(default_factory=nothing_to_wait_for, repr=False)

    @property
    def weights(self) -> ModelWeights:
        return self.tenant.weights

    @property
    def can_step(self) -> bool:
        """Whether a step has something to run or to report.

        Reporting an end needs no weights.
        """
        engine = self.engine
        return engine.has_work and (self.is_up or engine.is_idle)

    @property
    def is_up(self) -> bool:
        """Whether the weights are there for whoever has requests."""
        return self.state is ModelState.AWAKE or self.state is ModelState.LEAVING
