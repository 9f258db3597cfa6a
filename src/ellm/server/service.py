"""What every route of one server shares."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from ellm.server.backend import Backend
from ellm.server.errors import unknown_model
from ellm.server.inflight import InFlight
from ellm.server.settings import ServerSettings


@dataclass(frozen=True, slots=True)
class Service:
    """One engine, its settings and the work in progress.  `started` is in Unix seconds."""

    llm: Backend
    settings: ServerSettings
    inflight: InFlight = field(default_factory=InFlight)
    started: int = field(default_factory=lambda: int(time.time()))

    @property
    def model_names(self) -> tuple[str, ...]:
        return self.settings.served_model_names or (self.llm.model_name,)

    def model_name(self, asked: str | None) -> str:
        """The name to answer under; raises ApiError (404) for one that is not served."""
        if not asked:
            return self.model_names[0]
        if asked not in self.model_names:
            raise unknown_model(asked, self.model_names)
        return asked


@dataclass(frozen=True, slots=True)
class Ticket:
    """Who asked, as answers repeat it."""

    request_id: str
    model: str
    created: int = field(default_factory=lambda: int(time.time()))
