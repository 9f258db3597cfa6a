"""Requests that asyncio tasks wait for, and the way of news from the step thread to them.

    task ──submit──▶ inbox ─▶ step thread ─▶ deliver ──call_soon──▶ trackers ──event──▶ task

News of a step reach an event loop in one call.  A task that reads slowly finds its news merged.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from functools import partial
from itertools import count

from ellm.core.errors import EngineDead
from ellm.core.output import SequenceOutput
from ellm.engine.fleet import EngineFleet, Refusal
from ellm.engine.inbox import Inbox
from ellm.engine.loop import EngineLoop
from ellm.llm.outputs import RequestOutput
from ellm.llm.request_tracker import RequestTracker


@dataclass(slots=True, eq=False)
class _Stream:
    """A request that a task waits for; touched on the task's event loop only."""

    model: str
    tracker: RequestTracker
    home: asyncio.AbstractEventLoop
    woken: asyncio.Event = field(default_factory=asyncio.Event)
    error: Exception | None = None

    def fail(self, error: Exception) -> None:
        self.error = error
        self.woken.set()


class Streams:
    """The step thread of a fleet, and everyone who waits for it."""

    def __init__(self, fleet: EngineFleet, inbox: Inbox) -> None:
        self.loop = EngineLoop(fleet, inbox, self._deliver, self._refuse, self._on_death)
        self._streams: dict[str, _Stream] = {}
        self._ids = count()

    def new_id(self, request_id: str) -> str:
        """A name that no other request in the fleet has."""
        return f"{request_id}/{next(self._ids)}"

    def count(self, model: str) -> int:
        """Requests of `model` that are waited for."""
        return sum(1 for stream in list(self._streams.values()) if stream.model == model)

    async def follow(
        self, model: str, tracker: RequestTracker
    ) -> AsyncGenerator[RequestOutput, None]:
        """Submit the request, and yield its outputs as they come, until one is `finished`.

        Closing the iterator, or cancelling the task, ends the request at once.
        """
        engine_id = tracker.request.request_id
        stream = _Stream(model, tracker, asyncio.get_running_loop())
        self._streams[engine_id] = stream
        try:
            self.loop.submit(model, tracker.request)
            while not tracker.finished or tracker.has_news:
                await stream.woken.wait()
                stream.woken.clear()
                if stream.error is not None:
                    raise stream.error
                if tracker.has_news:
                    yield tracker.output()
        finally:
            del self._streams[engine_id]
            if not tracker.finished:
                self.loop.abort(model, engine_id)

    def close(self) -> None:
        """End the step thread; who still waits is told."""
        self.loop.stop()
        self._fail(EngineDead("the engine has been closed"))

    def _deliver(self, news: list[SequenceOutput]) -> None:
        """On the step thread: hand each event loop the news of its requests."""
        parcels: dict[asyncio.AbstractEventLoop, list[SequenceOutput]] = {}
        for item in news:
            stream = self._streams.get(item.request_id)
            if stream is not None:
                parcels.setdefault(stream.home, []).append(item)
        for home, items in parcels.items():
            if not _tell(home, partial(self._receive, items)):
                self._forget(items)

    def _forget(self, news: list[SequenceOutput]) -> None:
        """Nobody waits for these any more."""
        for item in news:
            stream = self._streams.get(item.request_id)
            if stream is not None:
                self.loop.abort(stream.model, item.request_id)

    def _receive(self, news: list[SequenceOutput]) -> None:
        for item in news:
            stream = self._streams.get(item.request_id)
            if stream is None:
                continue
            try:
                if stream.tracker.add(item):
                    self.loop.stop_choice(stream.model, item.request_id, item.index)
            except Exception as error:  # spoils this request, not those that share the parcel
                stream.fail(error)
            if stream.tracker.has_news:
                stream.woken.set()

    def _refuse(self, refusal: Refusal) -> None:
        """On the step thread: tell those whose requests cannot be served."""
        for request_id in refusal.request_ids:
            stream = self._streams.get(request_id)
            if stream is not None:
                _tell(stream.home, partial(stream.fail, refusal.error))

    def _on_death(self, error: BaseException) -> None:
        """On the step thread: tell everyone who waits."""
        self._fail(EngineDead(f"the engine stopped with {type(error).__name__}: {error}"))

    def _fail(self, error: EngineDead) -> None:
        for stream in list(self._streams.values()):
            _tell(stream.home, partial(stream.fail, error))


def _tell(home: asyncio.AbstractEventLoop, news: Callable[[], None]) -> bool:
    """Have `news` told on an event loop; False if it is closed, so that nobody waits."""
    try:
        home.call_soon_threadsafe(news)
    except RuntimeError:
        return False
    return True
