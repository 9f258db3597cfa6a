"""Every failure as OpenAI's error body: `{"error": {message, type, param, code}}`."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from ellm.core.errors import (
    ConfigError,
    ContextOverflow,
    DriverError,
    EllmError,
    EngineDead,
    ModelBusy,
    ModelError,
    ModelNotFound,
    QueueFull,
    RequestError,
    WakeFailed,
)

_LONGEST_MESSAGE = 1000
# When to ask again for memory that was not there, in seconds.
_MEMORY_WAIT = 5.0
_log = logging.getLogger("ellm.server")


@dataclass(slots=True, eq=False)
class ApiError(Exception):
    """One answer that is not a success.  `param` names the field at fault, if one is."""

    status: int
    message: str
    type: str = "invalid_request_error"
    param: str | None = None
    code: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    def body(self) -> bytes:
        message = self.message
        if len(message) > _LONGEST_MESSAGE:
            message = message[:_LONGEST_MESSAGE] + "…"
        error = {"message": message, "type": self.type, "param": self.param, "code": self.code}
        return json.dumps({"error": error}).encode()

    def response(self) -> Response:
        return Response(self.body(), self.status, dict(self.headers), "application/json")


def unavailable(message: str, code: str, retry_after: float | None = None) -> ApiError:
    """A 503; `retry_after` None says that trying again will not help."""
    headers = {} if retry_after is None else {"Retry-After": str(max(1, math.ceil(retry_after)))}
    return ApiError(503, message, "service_unavailable", None, code, headers)


def unknown_model(name: str | None, served: Sequence[str]) -> ApiError:
    """`name` None where the request names none and nothing is served."""
    which = "No model" if name is None else f"The model {name!r}"
    verb = "is" if name is None else "is not"
    message = f"{which} {verb} served here; served: {', '.join(served) or 'none'}."
    return ApiError(404, message, param="model", code="model_not_found")


def as_api_error(error: Exception) -> ApiError:
    """What to tell the client; anything that is not on purpose is logged and becomes a 500."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, QueueFull):
        return unavailable(str(error), "queue_full", error.retry_after)
    if isinstance(error, ContextOverflow):
        return ApiError(400, str(error), param=error.param, code="context_length_exceeded")
    if isinstance(error, RequestError):
        return ApiError(400, str(error), param=error.param)
    if isinstance(error, RequestValidationError):
        return _from_validation(error.errors())
    if isinstance(error, HTTPException):
        return ApiError(error.status_code, _explain(error), headers=error.headers or {})
    if isinstance(error, EngineDead):
        return unavailable(str(error), "engine_dead")
    if isinstance(error, EllmError):
        return _from_fleet(error)
    _log.error("a request failed through a fault of ours", exc_info=error)
    return ApiError(500, "The server failed on this request; its log says why.", "server_error")


def install(app: FastAPI) -> None:
    """Answer every exception that a route lets through.

    Our own faults too: they are registered by kind so that none reaches the framework's last
    resort, which would answer outside the middleware that names the request.
    """

    async def answer(request: Request, error: Exception) -> Response:
        return as_api_error(error).response()

    kinds = (ApiError, EllmError, HTTPException, RequestValidationError)
    for kind in kinds:
        app.add_exception_handler(kind, answer)


def _from_fleet(error: EllmError) -> ApiError:
    """What became of a model, or of an order to change one."""
    if isinstance(error, ModelNotFound):
        return ApiError(404, str(error), param="model", code="model_not_found")
    if isinstance(error, ModelBusy):
        return ApiError(409, str(error), param="model", code="model_busy")
    if isinstance(error, WakeFailed):
        return unavailable(str(error), "wake_failed", _MEMORY_WAIT)
    if isinstance(error, (ConfigError, ModelError)):
        return ApiError(400, str(error))
    assert isinstance(error, DriverError), error
    return unavailable(str(error), "memory_refused", _MEMORY_WAIT)


def _explain(error: HTTPException) -> str:
    match error.status_code:
        case 400:
            return "The request body cannot be read as JSON in UTF-8."
        case 404:
            return "There is nothing at this address; GET / lists what is."
        case 405:
            return "This address does not take that method."
        case 413:
            return "The request body is larger than this server takes."
        case _:
            return str(error.detail)


def _from_validation(errors: Sequence[Any]) -> ApiError:
    """One sentence about the first field at fault.

    A union reports one error for each of its arms; they are joined by "or".
    """
    first = errors[0]
    place = [part for part in first["loc"] if part != "body"]
    if first["type"] == "json_invalid":
        reason = first.get("ctx", {}).get("error", "malformed")
        return ApiError(400, f"The request body is not JSON: {reason} (at character {place[0]}).")
    if not place:
        hint = "The request body must be a JSON object, sent with Content-Type: application/json."
        return ApiError(400, hint)
    same = [e for e in errors if e["loc"][:2] == first["loc"][:2]]
    param = ".".join(str(part) for part in _common_start([e["loc"] for e in same])[1:])
    reasons = dict.fromkeys(e["msg"].removeprefix("Value error, ").rstrip(".") for e in same)
    return ApiError(400, f"{param}: {', or '.join(list(reasons)[:4])}.", param=param)


def _common_start(places: Sequence[Sequence[int | str]]) -> Sequence[int | str]:
    first = places[0]
    for length, parts in enumerate(zip(*places, strict=False)):
        if len(set(parts)) > 1:
            return first[:length]
    return min(places, key=len)
