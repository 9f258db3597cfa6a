"""The thread that repeats the step, and the inbox through which others reach it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from queue import Empty, SimpleQueue

from ellm.core.errors import EngineDead
from ellm.core.output import SequenceOutput
from ellm.core.request import Request
from ellm.engine.engine import Engine

# How long an engine without work keeps its warm memory before giving it back, in seconds.
REST_AFTER = 0.5
# How long to wait before asking again for memory that the machine has refused, in seconds.
STALL = 0.05


class EngineLoop:
    """Steps `engine` on a thread of its own while there is work.

    `deliver` gets the news of every step that has some; `on_death` the error that ended the loop,
    if one did.  Both are called on the loop's thread.
    """

    def __init__(
        self,
        engine: Engine,
        deliver: Callable[[list[SequenceOutput]], None],
        on_death: Callable[[BaseException], None],
    ) -> None:
        self._engine = engine
        self._deliver = deliver
        self._on_death = on_death
        self._inbox: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._arriving = 0
        self._lock = threading.Lock()
        self._stopping = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="ellm-engine", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def submit(self, request: Request) -> None:
        """Queue a request, from any thread.

        Raises ContextOverflow or QueueFull here and now, and EngineDead if the loop has ended.
        """
        self._require_alive()
        with self._lock:
            self._engine.check_request(request, queued=self._arriving)
            self._arriving += 1
        self._inbox.put(lambda: self._arrive(request))

    def _arrive(self, request: Request) -> None:
        with self._lock:  # a request is on its way or in the queue, never both
            self._engine.enqueue(request)
            self._arriving -= 1

    def abort(self, request_id: str, index: int | None = None) -> None:
        """End a request or one choice of it, from any thread, before the next step."""
        self._inbox.put(lambda: self._engine.abort(request_id, index))

    def stop_choice(self, request_id: str, index: int) -> None:
        """End a choice whose text has reached a stop string, from any thread."""
        self._inbox.put(lambda: self._engine.stop(request_id, index))

    def ping(self) -> Future[None]:
        """Done when the loop has come round; failed with EngineDead if it cannot."""
        answer: Future[None] = Future()
        self._inbox.put(lambda: _answer(answer))
        ended = self._thread.ident is not None and not self._thread.is_alive()
        if self._error is not None or ended:
            answer = Future()
            answer.set_exception(EngineDead(self._epitaph()))
        return answer

    def stop(self, timeout: float | None = 10.0) -> None:
        """End the loop after the step in flight.  Requests that still run get no more news."""
        self._stopping = True
        self._inbox.put(lambda: None)
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(timeout)

    def _require_alive(self) -> None:
        if self._error is not None or self._stopping:
            raise EngineDead(self._epitaph())

    def _epitaph(self) -> str:
        if self._error is None:
            return "the engine has been stopped"
        return f"the engine stopped with {type(self._error).__name__}: {self._error}"

    def _run(self) -> None:
        try:
            while not self._stopping:
                self._open_inbox()
                news = self._engine.step()
                if news:
                    self._deliver(news)
                if self._engine.obstacle is not None:
                    time.sleep(STALL)  # neighbours may give memory back to the machine
        except BaseException as error:  # whatever ends the loop must be told to those who wait
            self._error = error
            self._on_death(error)

    def _open_inbox(self) -> None:
        """Do what others asked; without work, rest until someone asks."""
        if not self._engine.has_work:
            self._wait()()
        while True:
            try:
                self._inbox.get_nowait()()
            except Empty:
                return

    def _wait(self) -> Callable[[], None]:
        try:
            return self._inbox.get(timeout=REST_AFTER)
        except Empty:
            self._engine.rest()
            return self._inbox.get()


def _answer(answer: Future[None]) -> None:
    """Tell whoever asked, unless they have gone."""
    if answer.set_running_or_notify_cancel():
        answer.set_result(None)
