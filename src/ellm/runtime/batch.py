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


class InputRoom:
    """Room for the token ids, positions and arena rows of a step: int64 [3, T], or more columns.

    Views of it are kept: making one takes longer than filling it.
    """

    def __init__(self, room: Tensor) -> None:
        self._room = room
        self._views: dict[int, tuple[Tensor, Tensor, Tensor, Tensor]] = {}

    @classmethod
    def take(cls, scratch: Scratch, shape: StepShape) -> InputRoom:
        return cls(scratch.take((3, height(shape.tokens)), torch.int64))

    def fill(self, plan: StepPlan) -> Inputs:
        """Lay the plan's sequences side by side, in the plan's order."""
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
        columns = self._first(len(ids))
        # A tenth of the time that a tensor of nested lists takes.
        flat = torch.frombuffer(array("q", ids + positions + rows), dtype=torch.int64)
        columns[0].copy_(flat.view(3, len(ids)))
        return Inputs(columns[1], columns[2], columns[3], segments)

    def _first(self, count: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The first `count` columns, and each of their three rows."""
        found = self._views.get(count)
        if found is None:
            columns = self._room[:, :count]
            found = self._views[count] = (columns, columns[0], columns[1], columns[2])
        return found
