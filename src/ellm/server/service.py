"""What every route of one server shares."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from ellm.core.errors import ModelNotFound
from ellm.obs.models import ModelInfo, ModelState
from ellm.server.backend import Backend, Fleet
from ellm.server.errors import unavailable, unknown_model
from ellm.server.inflight import InFlight
from ellm.server.settings import ServerSettings

# How long a client may wait before it asks again for a model that is being loaded, in seconds.
_LOADING_WAIT = 5.0


@dataclass(frozen=True, slots=True)
class Service:
    """The fleet, its settings and the work in progress.

    `aliases` maps names that requests give to a model's own; a model that has some is known by
    them alone.
    """

    fleet: Fleet
    settings: ServerSettings
    inflight: InFlight
    aliases: Mapping[str, str]

    @property
    def models(self) -> list[ModelInfo]:
        """What is served, once under each name that requests may give."""
        return [replace(info, name=n) for info in self.fleet.models for n in self.names(info.name)]

    def names(self, own: str) -> list[str]:
        """What requests may call the model that calls itself `own`."""
        return [alias for alias, model in self.aliases.items() if model == own] or [own]

    def own_name(self, asked: str) -> str:
        """The model's own name; raises ApiError (404) for one that has others."""
        if asked not in self.aliases and asked in self.aliases.values():
            raise self._unknown(asked)
        return self.aliases.get(asked, asked)

    def model(self, asked: str) -> ModelInfo:
        """Raises ApiError (404) for a name that is not served."""
        for info in self.models:
            if info.name == asked:
                return info
        raise self._unknown(asked)

    def route(self, asked: str | None) -> tuple[str, Backend]:
        """The name to answer under, and who answers.

        Raises ApiError: 404 for a name that is not served, 503 for a model on its way in.
        """
        name = asked or self._first()
        try:
            return name, self.fleet.backend(self.own_name(name))
        except ModelNotFound:
            raise self._absent(name) from None

    def _first(self) -> str:
        for info in self.models:
            return info.name
        raise self._unknown(None)

    def _absent(self, asked: str) -> Exception:
        for info in self.models:
            if info.name == asked and info.state is ModelState.LOADING:
                message = f"The model {asked} is being loaded; try again soon."
                return unavailable(message, "model_loading", _LOADING_WAIT)
        return self._unknown(asked)

    def _unknown(self, asked: str | None) -> Exception:
        return unknown_model(asked, [info.name for info in self.models])


@dataclass(frozen=True, slots=True)
class Ticket:
    """Who asked, as answers repeat it."""

    request_id: str
    model: str
    created: int = field(default_factory=lambda: int(time.time()))
