"""The thread that repeats the step, and the ways in which others reach it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from ellm.core.errors import EllmError, EngineDead
from ellm.core.output import SequenceOutput
from ellm.core.request import Request
from ellm.engine.fleet import EngineFleet, Refusal
from ellm.engine.inbox import Inbox

Answer = TypeVar("Answer")

# How long to wait before asking again for memory that the machine has refused, in seconds.
STALL = 0.05


class EngineLoop:
    """Steps the engines of `fleet` on a thread of its own while there is work.

    `deliver` gets the news of every step that has some; `refuse` requests that end with an error;
    `on_death` the error that ended the loop, if one did.  All are called on the loop's thread.
    """

    def __init__(
        self,
        fleet: EngineFleet,
        inbox: Inbox,
        deliver: Callable[[list[SequenceOutput]], None],
        refuse: Callable[[Refusal], None],
        on_death: Callable[[BaseException], None],
    ) -> None:
        self._fleet = fleet
        self._inbox = inbox
        self._deliver = deliver
        self._refuse = refuse
        self._on_death = on_death
        self._lock = threading.Lock()
        self._arriving: dict[str, int] = {}
        self._asked: set[Future[Any]] = set()
        self._ended = False
        self._stopping = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="ellm-engine", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def submit(self, model: str, request: Request) -> None:
        """Queue a request, from any thread.

        Raises ModelNotFound, ContextOverflow or QueueFull here and now, and EngineDead if the loop
        has ended.
        """
        self._require_alive()
        with self._lock:
            arriving = self._arriving.get(model, 0)
            self._fleet.check_request(model, request, arriving)
            self._arriving[model] = arriving + 1
        self._inbox.put(lambda: self._arrive(model, request))

    def _arrive(self, model: str, request: Request) -> None:
        with self._lock:  # a request is on its way or in the queue, never both
            self._fleet.enqueue(model, request)
            self._arriving[model] -= 1

    def abort(self, model: str, request_id: str, index: int | None = None) -> None:
        """End a request or one choice of it, from any thread, before the next step."""
        self._inbox.put(lambda: self._fleet.abort(model, request_id, index))

    def stop_choice(self, model: str, request_id: str, index: int) -> None:
        """End a choice whose text has reached a stop string, from any thread."""
        self._inbox.put(lambda: self._fleet.stop(model, request_id, index))

    def call(self, work: Callable[[], Answer]) -> Future[Answer]:
        """Do `work` between two steps.  Fails with what it raises, or with EngineDead."""
        answer: Future[Answer] = Future()
        self._ask(answer, lambda: self._settle(answer, work()))
        return answer

    def order(self, work: Callable[[], Future[None]]) -> Future[None]:
        """As `call`, for work that goes on: done when the future is that `work` returns."""
        answer: Future[None] = Future()

        def ended(inner: Future[None]) -> None:
            self._settle(answer, None, inner.exception())

        self._ask(answer, lambda: work().add_done_callback(ended))
        return answer

    def ping(self) -> Future[None]:
        """Done when the loop has come round; failed with EngineDead if it cannot."""
        return self.call(lambda: None)

    def _ask(self, answer: Future[Any], work: Callable[[], None]) -> None:
        answer.set_running_or_notify_cancel()  # who stops waiting does not undo what he asked for
        with self._lock:
            self._asked.add(answer)
            ended = self._ended
        if ended:
            self._settle(answer, None, EngineDead(self._epitaph()))
        else:
            self._inbox.put(lambda: self._do(answer, work))

    def _do(self, answer: Future[Any], work: Callable[[], None]) -> None:
        try:
            work()
        except EllmError as error:
            self._settle(answer, None, error)

    def _settle(
        self, answer: Future[Any], result: object, error: BaseException | None = None
    ) -> None:
        """Answer, unless the end of the loop already has."""
        with self._lock:
            if answer not in self._asked:
                return
            self._asked.remove(answer)
        if error is None:
            answer.set_result(result)
        else:
            answer.set_exception(error)

    def stop(self, timeout: float | None = 10.0) -> None:
        """End the loop after the step in flight.  Requests that still run get no more news."""
        self._stopping = True
        self._inbox.put(lambda: None)
        if self._thread.ident is None:
            self._end()
        elif self._thread is not threading.current_thread():
            self._thread.join(timeout)

    @property
    def has_ended(self) -> bool:
        """Whether no step and no job runs, or ever will."""
        return self._ended

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
                self._turn()
        except BaseException as error:  # whatever ends the loop must be told to those who wait
            self._error = error
            self._on_death(error)
        finally:
            self._end()

    def _turn(self) -> None:
        """Do what others asked, then one step; without work, wait until someone asks."""
        fleet = self._fleet
        if not fleet.has_work:
            self._inbox.wait(fleet.patience())
        self._inbox.open()
        news = fleet.step()
        if news:
            self._deliver(news)
        for refusal in fleet.take_refusals():
            self._refuse(refusal)
        if fleet.stalled:
            self._inbox.wait(STALL)  # neighbours may give memory back to the machine

    def _end(self) -> None:
        with self._lock:
            self._ended = True
            asked = list(self._asked)
        for answer in asked:
            self._settle(answer, None, EngineDead(self._epitaph()))
