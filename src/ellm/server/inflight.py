"""Work that a client waits for: cancelled when the client leaves or the server must stop."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.types import Receive

from ellm.server.errors import ApiError, unavailable

T = TypeVar("T")


class ClientGone(ApiError):
    """Nobody is left to read the answer."""

    def __init__(self) -> None:
        super().__init__(499, "The client went away before the answer was ready.")


class InFlight:
    """All such work of one server.

    open ──begin_drain()──▶ draining ──abort()──▶ stopped
           new work: 503              running work: 503 too
    """

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()
        self.draining = False

    def __len__(self) -> int:
        # What has ended stays in the set until its answer is picked up, a moment later.
        return sum(not task.done() for task in self._tasks)

    def begin_drain(self) -> None:
        self.draining = True

    def abort(self) -> None:
        """Cancel what still runs; each client is told."""
        for task in self._tasks:
            task.cancel()

    async def idle(self, timeout: float) -> bool:
        """Whether everything ended within `timeout` seconds."""
        if self._tasks:
            await asyncio.wait(set(self._tasks), timeout=timeout)
        return len(self) == 0

    async def run(self, receive: Receive, work: Coroutine[Any, Any, T]) -> T:
        """The result of `work`.  Call only after the request's body has been read.

        Raises ClientGone after cancelling it because the client went away, and ApiError (503)
        when the server is stopping.
        """
        if self.draining:
            work.close()
            raise stopping()
        task = asyncio.create_task(work)
        gone = asyncio.create_task(_disconnected(receive))
        self._tasks.add(task)
        try:
            await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                raise ClientGone
            if task.cancelled():
                raise stopping()
            return task.result()
        finally:
            gone.cancel()
            task.cancel()
            await asyncio.gather(task, gone, return_exceptions=True)
            self._tasks.discard(task)


def stopping() -> ApiError:
    """What a client hears while the server drains."""
    return unavailable("The server is shutting down; try another one.", "shutting_down", 1.0)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
