"""Server-sent events: one JSON object each, `[DONE]` last."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from ellm.server.errors import as_api_error
from ellm.server.inflight import ClientGone, InFlight

_DONE = b"data: [DONE]\n\n"


class EventStream(Response):
    """Sends what `events` yields, as it is yielded.

    The status line waits for the first event, so that a request that is refused or queued in vain
    still gets its proper status.  A failure after that is an error event, then the end.  However
    the stream ends, `events` is closed before this returns.
    """

    media_type = "text/event-stream"

    def __init__(self, events: AsyncGenerator[str, None], inflight: InFlight) -> None:
        super().__init__(headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._events = events
        self._inflight = inflight
        self._started = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self._events):
            try:
                await self._inflight.run(receive, self._pump(send))
            except ClientGone:
                return
            except Exception as error:
                if not self._started:
                    raise
                await self._send(send, b"data: " + as_api_error(error).body() + b"\n\n")
        await self._send(send, _DONE, more=False)

    async def _pump(self, send: Send) -> None:
        async for event in self._events:
            await self._send(send, f"data: {event}\n\n".encode())

    async def _send(self, send: Send, body: bytes, more: bool = True) -> None:
        if not self._started:
            self._started = True
            start = {"status": self.status_code, "headers": self.raw_headers}
            await send({"type": "http.response.start", **start})
        await send({"type": "http.response.body", "body": body, "more_body": more})
