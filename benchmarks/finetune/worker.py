"""One arm of run.py: fine-tuning under one of PyTorch's CUDA allocators, or on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from finetuning import ON_CPU, WORKLOADS, lengths_of, train

import ellm
from harness.worker import Json, serve

# Ample: no arm is ever short of it.
MEMORY = "48GiB"


def load(stack: ExitStack, opening: Json) -> Callable[[Json], Json]:
    """Enter the arm's allocator, before CUDA is first used; it stays until `stack` is closed."""
    allocator = None
    if opening["arm"] == "ellm":
        allocator = stack.enter_context(ellm.torch_allocator(MEMORY))
    torch.set_num_threads(opening["threads"])
    return partial(answer, opening["device"], allocator)


def answer(device: str, allocator: Any, question: Json) -> Json:
    """Run the steps; what they took, and the most memory that there was."""
    workloads = ON_CPU if device == "cpu" else WORKLOADS
    workload = next(each for each in workloads if each.name == question["workload"])
    steps, seed = question["steps"], question["seed"]
    trace = Path(question["trace"]) if question["trace"] else None
    lengths = lengths_of(trace, steps * workload.rows, workload.longest, seed)
    lessons = train(workload, steps, device, seed, lengths)
    found: Json = {"lessons": [asdict(lesson) for lesson in lessons]}
    if device == "cpu":
        return found
    free, total = torch.cuda.mem_get_info()
    found |= _native() if allocator is None else _ours(allocator)
    # The device's own count, the process's context included.
    return {**found, "taken_at_the_end": total - free, "gpu": torch.cuda.get_device_name()}


def _native() -> Json:
    """What PyTorch's own allocator says: bytes that tensors asked for, and bytes taken."""
    stats = torch.cuda.memory_stats()
    return {
        "peak_active": stats["requested_bytes.all.peak"],
        "peak_reserved": stats["reserved_bytes.all.peak"],
        "expandable": any(each.get("is_expandable") for each in torch.cuda.memory_snapshot()),
    }


def _ours(allocator: Any) -> Json:
    allocator.check()
    stats = allocator.stats()
    return {"peak_active": stats.peak_active, "peak_reserved": stats.peak_reserved}


if __name__ == "__main__":
    with ExitStack() as stack:
        serve(partial(load, stack))
