"""From a step plan to the index tensors that a decoder reads."""

from __future__ import annotations

from array import array
from collections.abc import Sequence

import torch
from torch import Tensor

from ellm.core.plan import StepPlan, StepShape
from ellm.kernels.heights import height
from ellm.kernels.ops import Segment
from ellm.kernels.scratch import Scratch
from ellm.models.decoder import Inputs
from ellm.runtime.views import put


class InputRoom:
    """Room for the token ids, positions and arena rows of a step: int64 [3, T], or more columns.

    Columns beyond a step's tokens are token 0 at position 0, in no row (-1).  Views of it are kept:
    making one takes longer than filling it.
    """

    def __init__(self, room: Tensor) -> None:
        self._room = room
        self._flat = room.view(-1)
        self._views: dict[int, tuple[Tensor, Tensor, Tensor]] = {}

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
        count = len(ids)
        spare = self._room.shape[1] - count
        if spare:
            nothing = [0] * spare
            ids += nothing
            positions += nothing
            rows += [-1] * spare
        ids += positions
        ids += rows
        put(array("q", ids), self._flat)
        return Inputs(*self._first(count), segments)

    def whole(self, segments: Sequence[Segment]) -> Inputs:
        """What `fill` put there, with all columns."""
        return Inputs(*self._first(self._room.shape[1]), segments)

    def _first(self, count: int) -> tuple[Tensor, Tensor, Tensor]:
        """The first `count` ids, positions and rows."""
        found = self._views.get(count)
        if found is None:
            ids, positions, rows = self._room[:, :count]
            found = self._views[count] = (ids, positions, rows)
        return found
