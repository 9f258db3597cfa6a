"""From a step plan to the index tensors that a decoder reads."""

from __future__ import annotations

from array import array

import torch
from torch import Tensor

from ellm.core.plan import StepPlan, StepShape
from ellm.kernels.heights import height
from ellm.kernels.ops import Segment
from ellm.kernels.scratch import Scratch
from ellm.models.decoder import Inputs


def take_inputs(scratch: Scratch, shape: StepShape) -> Tensor:
    """Room for token ids, positions and arena rows: int64 [3, T], or more columns."""
    return scratch.take((3, height(shape.tokens)), torch.int64)


def fill_inputs(plan: StepPlan, room: Tensor) -> Inputs:
    """Lay the plan's sequences side by side in `room`, in the plan's order."""
    ids: list[int] = []
    positions: list[int] = []
    rows: list[int] = []
    segments = []
    for _, tokens, start, table, *_ in plan.steps:
        count = len(tokens)
        segments.append(Segment(len(ids), count, start, table))
        ids += tokens
        if count == 1:
            positions.append(start)
            rows.append(table.row(start))
        else:
            positions += range(start, start + count)
            for first, last in table.runs(start, start + count):
                rows += range(first, last)
    assert len(ids) == len(rows) == plan.shape.tokens, (len(ids), len(rows), plan.shape)
    count = len(ids)
    # A tenth of the time that a tensor of nested lists takes.
    flat = torch.frombuffer(array("q", [*ids, *positions, *rows]), dtype=torch.int64)
    room[:, :count].copy_(flat.view(3, count))
    return Inputs(room[0, :count], room[1, :count], room[2, :count], segments)
