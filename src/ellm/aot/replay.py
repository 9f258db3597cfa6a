"""Ways to run a plan: in one line, or on as many threads as it has streams."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, Protocol

import torch

from ellm.aot.plan import Plan

# Called before operation i; a test may sleep here to prove that order does not rest on speed.
Pause = Callable[[int], None]


class Replay(Protocol):
    """Does all operations of a plan on slots that `plan.begin` made."""

    plan: Plan

    def run(self, slots: list[Any]) -> None: ...


class SingleLane:
    """Every operation in order, on the caller's thread."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan

    def run(self, slots: list[Any]) -> None:
        for step in self.plan.steps:
            step(slots)


class Lanes:
    """A thread for each stream, the caller's own for the first; each operation computes alone.

    Streams beyond `most` share threads: stream s is on lane s modulo `most`, in node order, which
    keeps every dependency because edges lead to later nodes.
    """

    def __init__(self, plan: Plan, most: int, pause: Pause | None = None) -> None:
        self.plan = plan
        self._pause = pause
        count = min(most, plan.streams.count)
        self._lanes: list[list[int]] = [[] for _ in range(count)]
        for node, stream in enumerate(plan.streams.stream):
            self._lanes[stream % count].append(node)
        self._jobs: list[SimpleQueue[_Run | None]] = [SimpleQueue() for _ in range(1, count)]
        for lane, jobs in enumerate(self._jobs, 1):
            threading.Thread(target=self._serve, args=(lane, jobs), daemon=True).start()

    def run(self, slots: list[Any]) -> None:
        run = _Run(slots, len(self.plan.steps), len(self._jobs))
        threads = torch.get_num_threads()
        for jobs in self._jobs:
            jobs.put(run)
        self._work(0, run)
        run.wait_for_others()
        torch.set_num_threads(threads)
        if run.error is not None:
            raise run.error

    def close(self) -> None:
        """End the threads."""
        for jobs in self._jobs:
            jobs.put(None)

    def _serve(self, lane: int, jobs: SimpleQueue[_Run | None]) -> None:
        while (run := jobs.get()) is not None:
            self._work(lane, run)
            run.ended(lane)

    def _work(self, lane: int, run: _Run) -> None:
        plan, done = self.plan, run.done
        torch.set_num_threads(1)
        with torch.inference_mode():
            try:
                for node in self._lanes[lane]:
                    for before in plan.streams.waits[node]:
                        while not done[before]:
                            if run.error is not None:
                                return
                            time.sleep(0)  # let go of the interpreter, not of the core
                    if self._pause is not None:
                        self._pause(node)
                    plan.steps[node](run.slots)
                    done[node] = True
            except BaseException as error:
                run.error = error


class _Run:
    """One call: its slots, and which operations have ended."""

    def __init__(self, slots: list[Any], nodes: int, others: int) -> None:
        self.slots = slots
        self.done = bytearray(nodes)
        self.error: BaseException | None = None
        self._ends = [threading.Event() for _ in range(others)]

    def ended(self, lane: int) -> None:
        self._ends[lane - 1].set()

    def wait_for_others(self) -> None:
        for end in self._ends:
            end.wait()
