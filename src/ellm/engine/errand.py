"""Work on the step thread that waits in the middle, while the engines step on.

    step thread    ─ take chunks ┐                   ┌ awake ─▶ future
    helper                       └── read a file ────┘

An errand is a generator.  It yields what it waits for: something that, when started, calls back
with an answer or an error.  The errand goes on with the answer, or with the error raised.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, Protocol

from ellm.core.errors import EllmError
from ellm.engine.inbox import Inbox

Then = Callable[[Any, Exception | None], None]
Errand = Generator[Callable[[Then], None], Any, None]


def send(errand: Errand) -> Future[None]:
    """Start `errand`, on the step thread.  The future cannot be cancelled.

    It fails with what the errand raises.  That is the end of it, unless it is a bug of ours in
    what the errand does itself: the step thread has to know.
    """
    done: Future[None] = Future()
    done.set_running_or_notify_cancel()
    _advance(errand, done, None, None)
    return done


def _advance(errand: Errand, done: Future[None], answer: Any, error: Exception | None) -> None:
    try:
        start = errand.send(answer) if error is None else errand.throw(error)
    except StopIteration:
        done.set_result(None)
    except BaseException as failure:
        done.set_exception(failure)
        if not isinstance(failure, EllmError) and failure is not error:
            raise
    else:
        start(partial(_advance, errand, done))


class Helper(Protocol):
    """Does jobs that would hold up the steps."""

    def do(self, job: Callable[[], Any], then: Then) -> None:
        """Do `job` elsewhere; on the step thread call `then` with its answer or its error."""
        ...


class HelperThread:
    """One thread that does one job at a time, and answers through the inbox."""

    def __init__(self, inbox: Inbox) -> None:
        self._inbox = inbox
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="ellm-helper")

    def do(self, job: Callable[[], Any], then: Then) -> None:
        self._thread.submit(self._do, job, then)

    def _do(self, job: Callable[[], Any], then: Then) -> None:
        try:
            answer = job()
        except Exception as error:
            failure = error  # the name in the clause does not outlive it
            self._inbox.put(lambda: then(None, failure))
        else:
            self._inbox.put(lambda: then(answer, None))

    def close(self) -> None:
        """Return when the job in hand is done; those that wait are forgotten."""
        self._thread.shutdown(wait=True, cancel_futures=True)
