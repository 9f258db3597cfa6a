"""Processes that look at plans and simulate them, side by side."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from multiprocessing import get_context
from multiprocessing.pool import Pool
from types import TracebackType
from typing import NamedTuple

from ellm.core.errors import ConfigError
from ellm.planner.case import Case
from ellm.planner.prospect import Judge, Prospect
from ellm.sim.parallel.plan import Plan
from ellm.sim.report import Report

# Plans that a process looks at between two reports.
_CHUNK = 16


class Task(NamedTuple):
    """Simulate the first `requests` of the trace on `plan`."""

    plan: Plan
    requests: int


class Workers:
    """`jobs` processes, each with a case of its own that `make` makes there; one works right here.

    Answers come in the order of the questions, so that nothing depends on how many there are.
    `make` is pickled; a case need not be, as where a model has cells of somebody's own.
    """

    def __init__(self, make: Callable[[], Case], jobs: int | None = None) -> None:
        jobs = len(os.sched_getaffinity(0)) if jobs is None else jobs
        if jobs < 1:
            raise ConfigError(f"--jobs must be at least 1, not {jobs}")
        self._judge: Judge | None = None
        self._pool: Pool | None = None
        if jobs == 1:
            self._judge = Judge(make())
        else:
            self._pool = get_context("spawn").Pool(jobs, _begin, (make,))

    def prospects(self, plans: Sequence[Plan]) -> Iterator[Prospect]:
        if self._judge is not None:
            return map(self._judge.prospect, plans)
        assert self._pool is not None
        return self._pool.imap(_prospect, plans, _CHUNK)

    def reports(self, tasks: Iterable[Task]) -> Iterator[Report]:
        if self._judge is not None:
            case = self._judge.case
            return (case.simulated(*task) for task in tasks)
        assert self._pool is not None
        return self._pool.imap(_report, tasks)

    def __enter__(self) -> Workers:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._pool is not None:
            self._pool.terminate()
            self._pool.join()


_makers: list[Callable[[], Case]] = []  # of this process: one


def _begin(make: Callable[[], Case]) -> None:
    # The parent ends its processes, also when it is interrupted.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _makers.append(make)


@cache
def _judge() -> Judge:
    """Made by the first question, which can answer with an error; a pool starts processes that
    fail before again and again."""
    return Judge(_makers[0]())


def _prospect(plan: Plan) -> Prospect:
    return _judge().prospect(plan)


def _report(task: Task) -> Report:
    return _judge().case.simulated(*task)
