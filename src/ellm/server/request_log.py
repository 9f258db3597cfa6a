"""Names every request, logs it when asked, and turns a fault of ours into a 500."""

from __future__ import annotations

import logging
import time
import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ellm.server.errors import as_api_error

LONGEST_ID = 256
_UNLOGGED = frozenset({"/health", "/ping", "/metrics", "/load"})
_log = logging.getLogger("ellm.server")


class RequestLog:
    """The outermost layer.

    A client's `x-request-id` is kept (a new one is made where it sent none) and echoed on the
    answer, whatever the answer is; routes find it in `request.state.request_id`.
    """

    def __init__(self, app: ASGIApp, log_requests: bool) -> None:
        self.app = app
        self._log_requests = log_requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request_id = Headers(scope=scope).get("x-request-id", "")[:LONGEST_ID] or uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id
        began, status = time.perf_counter(), 0

        async def named_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["x-request-id"] = request_id
            await send(message)

        try:
            await self.app(scope, receive, named_send)
        except Exception as error:
            answer = as_api_error(error)
            if status:
                # The client is in the middle of a body: only closing the connection can tell it.
                raise
            await answer.response()(scope, receive, named_send)
        finally:
            if self._log_requests and local_path(scope) not in _UNLOGGED:
                taken = 1e3 * (time.perf_counter() - began)
                line = "%s %s %d %.0f ms %s"
                _log.info(line, scope["method"], scope["path"], status, taken, request_id)


def local_path(scope: Scope) -> str:
    """The path as routes know it, without the prefix that a proxy cut."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", ""))
