"""Data parallelism by threads: every lane takes its share of a step on one core.

Lanes meet once per step. A product split over all cores meets at every product, and stalls each
time when another process holds one of the cores. Promise: the summed gradient does not depend on
which lane is faster, only on how many lanes there are.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from .model import Llama

LossOf = Callable[[Tensor, Tensor], Tensor]


class Taught:
    """A student's loss against the targets and a teacher, which takes no gradient."""

    def __init__(self, student: Llama, teacher: Llama, compiled: bool) -> None:
        self.lesson: Callable[[Tensor], Tensor] = (
            torch.compile(teacher.distribution, dynamic=False) if compiled else teacher.distribution
        )
        self.loss: Callable[[Tensor, Tensor, Tensor], Tensor] = (
            torch.compile(student.taught_loss, dynamic=False) if compiled else student.taught_loss
        )

    def __call__(self, ids: Tensor, targets: Tensor) -> Tensor:
        """The sum over positions, in nats."""
        with torch.no_grad():
            lesson = self.lesson(ids)
        return self.loss(ids, targets, lesson)


class Lanes:
    """Replicas of one model that share its parameters and keep gradients of their own."""

    def __init__(self, model: Llama, count: int, compiled: bool) -> None:
        torch.set_num_threads(1)
        self.models = [model, *(replica(model) for _ in range(count - 1))]
        self.losses: list[LossOf] = [
            torch.compile(lane.loss, dynamic=False) if compiled else lane.loss
            for lane in self.models
        ]
        self.pool = ThreadPoolExecutor(
            count, thread_name_prefix="lane", initializer=torch.set_num_threads, initargs=(1,)
        )
        self.seen: set[tuple[int, bool]] = set()
        self.compiled = compiled
        self.taught: list[LossOf] = []

    def follow(self, teacher: Llama) -> None:
        """From now on train against this teacher too."""
        self.taught = [Taught(lane, teacher, self.compiled) for lane in self.models]

    def gradients(self, inputs: Tensor, targets: Tensor, rows: int) -> float:
        """Leave the mean loss's gradient in the first model; return that loss."""
        shares = list(
            zip(
                self.models,
                self.taught or self.losses,
                inputs.tensor_split(len(self.models)),
                targets.tensor_split(len(self.models)),
                strict=True,
            )
        )
        scale = 1.0 / targets.numel()
        kind = (inputs.shape[1], bool(self.taught))
        if kind in self.seen:
            jobs = [self.pool.submit(accumulate, *share, rows, scale) for share in shares]
            total = sum(job.result() for job in jobs)
        else:  # a new shape compiles, one lane at a time
            self.seen.add(kind)
            total = sum(
                self.pool.submit(accumulate, *each, rows, scale).result() for each in shares
            )
        for lane in self.models[1:]:
            for parameter, other in zip(
                self.models[0].parameters(), lane.parameters(), strict=True
            ):
                if parameter.grad is not None and other.grad is not None:
                    parameter.grad.add_(other.grad)
                other.grad = None
        return total

    def together(self, tasks: list[Callable[[], object]]) -> None:
        """Run independent tasks, each on a lane's thread, and wait for all."""
        for job in [self.pool.submit(task) for task in tasks]:
            job.result()


def replica(model: Llama) -> Llama:
    """A copy whose parameters are the same memory."""
    other = copy.deepcopy(model)
    for mine, its in zip(model.parameters(), other.parameters(), strict=True):
        its.data = mine.data
    return other


def accumulate(
    model: Llama, loss_of: LossOf, inputs: Tensor, targets: Tensor, rows: int, scale: float
) -> float:
    """Add one lane's gradient to its model, `rows` windows at a time; return its scaled loss."""
    total = 0.0
    for begin in range(0, len(inputs), rows):
        with torch.autocast("cpu", torch.bfloat16):
            loss = loss_of(inputs[begin : begin + rows], targets[begin : begin + rows]) * scale
        loss.backward()  # type: ignore[no-untyped-call]
        total += float(loss.detach())
    return total
