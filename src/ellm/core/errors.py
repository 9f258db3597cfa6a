"""Everything eLLM raises on purpose.

    EllmError
    ├── ConfigError            an option is wrong, or two options disagree
    │   └── BudgetError        what was asked for cannot fit the memory budget
    ├── ModelError             the model directory cannot be served
    │   ├── ModelNotFound      no such directory, bundled name or hub id
    │   ├── UnsupportedModel   an architecture or feature we do not implement
    │   ├── CheckpointError    weights missing, truncated or of the wrong shape
    │   ├── ModelBusy          requests run, so it can neither sleep nor be replaced; wait
    │   └── WakeFailed         a model that slept could not be woken; try again later
    ├── RequestError           one request is wrong; no other request is affected
    │   ├── ContextOverflow    prompt longer than the context
    │   └── QueueFull          too many requests wait; try again later
    ├── EngineDead             the step loop has stopped; the process must be restarted
    └── DriverError            the machine refused a memory operation; nothing changed
        └── DriverUnavailable  this kind of memory does not exist on this machine

A message says what is wrong, with numbers, and what to do.  Bugs of ours are assertions
instead, and "not now" is `None`.
"""

from __future__ import annotations


class EllmError(Exception):
    """Base of every error a caller may want to catch."""


class ConfigError(EllmError, ValueError):
    """An option is wrong, or two options disagree."""


class BudgetError(ConfigError):
    """What was asked for cannot fit the memory budget."""


class ModelError(EllmError):
    """The model directory cannot be served."""


class ModelNotFound(ModelError):
    """No such directory, bundled name or hub id."""


class UnsupportedModel(ModelError):
    """An architecture or feature we do not implement."""


class CheckpointError(ModelError):
    """Weights are missing, truncated or of the wrong shape."""


class ModelBusy(ModelError):
    """What was asked for has to wait until the model's requests, or its own change, have ended."""


class WakeFailed(ModelError):
    """A model that slept could not be woken.  It sleeps on, and the next request tries again."""


class RequestError(EllmError, ValueError):
    """One request is wrong.  `param` names the field, as OpenAI's error body does."""

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class ContextOverflow(RequestError):
    """The prompt is longer than the context."""


class QueueFull(RequestError):
    """Too many requests wait already.  `retry_after` is in seconds."""

    def __init__(self, message: str, retry_after: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class EngineDead(EllmError):
    """The step loop has stopped; the process must be restarted."""


class DriverError(EllmError):
    """The machine refused a memory operation.  Nothing changed."""


class DriverUnavailable(DriverError):
    """This kind of memory does not exist on this machine."""
