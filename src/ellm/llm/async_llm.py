"""An engine on a thread of its own, behind any number of asyncio tasks.

    task ──submit──▶ inbox ─▶ step thread ─▶ deliver ──call_soon──▶ trackers ──event──▶ task

News of a step reach the event loop in one call.  A task that reads slowly finds its news merged.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from itertools import count

from ellm.core.errors import EngineDead, QueueFull
from ellm.core.output import SequenceOutput
from ellm.core.sampling import SamplingParams
from ellm.engine.loop import EngineLoop
from ellm.llm.args import EngineArgs
from ellm.llm.build import Progress
from ellm.llm.configured import Configured
from ellm.llm.frontend import start
from ellm.llm.outputs import RequestOutput
from ellm.llm.processor import Prompt
from ellm.llm.request_tracker import RequestTracker
from ellm.llm.tokenizer import Tokenizer
from ellm.obs.snapshot import EngineSnapshot
from ellm.obs.stats import EngineStats

_SNAPSHOT_TRIES = 100


@dataclass(slots=True, eq=False)
class _Stream:
    """A request that a task waits for; touched on the task's event loop only."""

    tracker: RequestTracker
    home: asyncio.AbstractEventLoop
    woken: asyncio.Event = field(default_factory=asyncio.Event)
    error: Exception | None = None

    def fail(self, error: Exception) -> None:
        self.error = error
        self.woken.set()


class AsyncLLM(Configured):
    """One model in this process, for many callers at once.

    llm = AsyncLLM("path/to/model", memory="4GiB")
    async for output in llm.generate("Hello", SamplingParams(), "my-id"):
        print(output.outputs[0].text)
    """

    def _open(self, args: EngineArgs, progress: Progress | None) -> None:
        built, self._frontend = start(args, progress)
        self._engine = built.engine
        self._streams: dict[str, _Stream] = {}
        self._ids = count()
        self._loop = EngineLoop(built.engine, self._deliver, self._on_death)
        self._loop.start()
        self.model_name = built.model_name
        self.max_model_len = built.max_model_len
        self.is_draining = False

    @property
    def tokenizer(self) -> Tokenizer:
        return self._frontend.tokenizer

    @property
    def stats(self) -> EngineStats:
        return self._engine.stats

    async def generate(
        self,
        prompt: Prompt,
        params: SamplingParams,
        request_id: str,
        *,
        priority: int = 0,
        delta: bool = False,
    ) -> AsyncGenerator[RequestOutput, None]:
        """Outputs as they come, until one is `finished`.

        Each output is cumulative; with `delta` it has only what is new, of the choices that have
        news.  News that arrive while the consumer is busy are merged into one output.  Closing the
        iterator, or cancelling the task, ends the request at once.  `request_id` is the caller's
        own and need not be unique.  Raises RequestError for a request that cannot be served,
        QueueFull for one that cannot be served now, and EngineDead.
        """
        if self.is_draining:
            raise QueueFull("the engine is shutting down")
        engine_id = f"{request_id}/{next(self._ids)}"
        tracker = self._frontend.track(engine_id, request_id, prompt, params, priority, delta)
        stream = _Stream(tracker, asyncio.get_running_loop())
        self._streams[engine_id] = stream
        try:
            self._loop.submit(tracker.request)
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
                self._loop.abort(engine_id)

    def _deliver(self, news: list[SequenceOutput]) -> None:
        """On the step thread: hand each event loop the news of its requests."""
        parcels: dict[asyncio.AbstractEventLoop, list[SequenceOutput]] = {}
        for item in news:
            stream = self._streams.get(item.request_id)
            if stream is not None:
                parcels.setdefault(stream.home, []).append(item)
        for home, items in parcels.items():
            try:
                home.call_soon_threadsafe(self._receive, items)
            except RuntimeError:  # that event loop is closed, so nobody waits
                for item in items:
                    self._loop.abort(item.request_id)

    def _receive(self, news: list[SequenceOutput]) -> None:
        for item in news:
            stream = self._streams.get(item.request_id)
            if stream is None:
                continue
            try:
                if stream.tracker.add(item):
                    self._loop.stop_choice(item.request_id, item.index)
            except Exception as error:  # spoils this request, not those that share the parcel
                stream.fail(error)
            if stream.tracker.has_news:
                stream.woken.set()

    def _on_death(self, error: BaseException) -> None:
        """On the step thread: tell everyone who waits."""
        self._fail(EngineDead(f"the engine stopped with {type(error).__name__}: {error}"))

    def _fail(self, error: EngineDead) -> None:
        for stream in list(self._streams.values()):
            try:
                stream.home.call_soon_threadsafe(stream.fail, error)
            except RuntimeError:  # that event loop is closed, so nobody waits
                continue

    async def health(self, timeout: float = 30.0) -> None:
        """Return after a round trip to the step thread.

        Raises EngineDead when the thread has ended, or does not answer within `timeout` seconds.
        """
        answer = asyncio.wrap_future(self._loop.ping())
        try:
            # Shielded, because the step thread must not find its answer cancelled.
            await asyncio.wait_for(asyncio.shield(answer), timeout)
        except TimeoutError as error:
            raise EngineDead(f"the step thread has not answered for {timeout:g} s") from error

    def snapshot(self) -> EngineSnapshot:
        """The engine's state now, or near it: the step thread does not stop for this."""
        for _ in range(_SNAPSHOT_TRIES):
            try:
                return self._engine.snapshot()
            except RuntimeError:  # a table changed while it was read
                time.sleep(0)
        raise AssertionError("no snapshot between two changes")

    async def drain(self, timeout: float | None = None) -> bool:
        """Take no new requests; whether the running ones ended within `timeout` seconds."""
        self.is_draining = True
        deadline = None if timeout is None else time.monotonic() + timeout
        while self._streams:
            if deadline is not None and time.monotonic() >= deadline:
                return False
            await asyncio.sleep(0.02)
        return True

    def close(self) -> None:
        """End the step thread and release all memory; twice is harmless.

        Requests that still run fail with EngineDead.  A step that hangs keeps its memory.
        """
        self._loop.stop()
        self._fail(EngineDead("the engine has been closed"))
        if self._loop.ping().done():
            self._engine.close()
