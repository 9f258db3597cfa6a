"""One model of a fleet, for many callers at once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import TypeVar

from ellm.core.errors import EngineDead, QueueFull
from ellm.core.objectives import Objectives
from ellm.core.sampling import SamplingParams
from ellm.engine.engine import Engine
from ellm.llm.frontend import Frontend
from ellm.llm.outputs import RequestOutput
from ellm.llm.processor import Prompt
from ellm.llm.streams import Streams
from ellm.llm.tokenizer import Tokenizer
from ellm.obs.snapshot import EngineSnapshot
from ellm.obs.stats import EngineStats

_TRIES = 100

Answer = TypeVar("Answer")


class ServedModel:
    """What a server asks of a model: text in, outputs as they come, and how it is."""

    model_name: str
    max_model_len: int

    def __init__(self, name: str, engine: Engine, frontend: Frontend, streams: Streams) -> None:
        self._engine = engine
        self._frontend = frontend
        self._streams = streams
        self.model_name = name
        self.max_model_len = engine.config.max_model_len
        self.is_draining = False

    @property
    def parts(self) -> tuple[str, Engine, Frontend, Streams]:
        """What this was made of."""
        return self.model_name, self._engine, self._frontend, self._streams

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
        objectives: Objectives | None = None,
        cache_salt: str | None = None,
    ) -> AsyncGenerator[RequestOutput, None]:
        """Outputs as they come, until one is `finished`.

        Each output is cumulative; with `delta` it has only what is new, of the choices that have
        news.  News that arrive while the consumer is busy are merged into one output.  Closing the
        iterator, or cancelling the task, ends the request at once.  `request_id` is the caller's
        own and need not be unique.  `objectives` override the engine's, field by field; requests
        of different `cache_salt` share no prefix.  A model that sleeps is woken first.

        Raises RequestError for a request that cannot be served, QueueFull for one that cannot be
        served now, WakeFailed, ModelNotFound once the model is being unloaded, and EngineDead.
        """
        if self.is_draining:
            raise QueueFull("the engine is shutting down")
        engine_id = self._streams.new_id(request_id)
        tracker = self._frontend.track(
            engine_id, request_id, prompt, params, priority, delta, objectives, cache_salt
        )
        async with aclosing(self._streams.follow(self.model_name, tracker)) as outputs:
            async for output in outputs:
                yield output

    async def health(self, timeout: float = 30.0) -> None:
        """Return after a round trip to the step thread.

        Raises EngineDead when the thread has ended, or does not answer within `timeout` seconds.
        """
        try:
            await asyncio.wait_for(asyncio.wrap_future(self._streams.loop.ping()), timeout)
        except TimeoutError as error:
            raise EngineDead(f"the step thread has not answered for {timeout:g} s") from error

    def snapshot(self) -> EngineSnapshot:
        """The engine's state now, or near it: the step thread does not stop for this."""
        return read_beside(self._engine.snapshot)

    async def drain(self, timeout: float | None = None) -> bool:
        """Take no new requests; whether the running ones ended within `timeout` seconds."""
        self.is_draining = True
        deadline = None if timeout is None else time.monotonic() + timeout
        while self._streams.count(self.model_name):
            if deadline is not None and time.monotonic() >= deadline:
                return False
            await asyncio.sleep(0.02)
        return True


def read_beside(read: Callable[[], Answer]) -> Answer:
    """What `read` finds in the tables of the step thread, which goes on changing them."""
    for _ in range(_TRIES):
        try:
            return read()
        except RuntimeError:  # a table changed while it was read
            time.sleep(0)  # let the step thread end its change
    raise AssertionError("no moment between two changes")
