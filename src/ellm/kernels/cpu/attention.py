"""Attention of one step by the native library, over its segment table."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from torch import Tensor

from ellm.kernels.cpu import library as native
from ellm.kernels.cpu.library import Kind, Op, operation
from ellm.kernels.cpu.segments import SegmentTable
from ellm.kernels.ops import KvPlanes, Segment


class NativeAttention:
    """kernels.ops.AttentionPlan that hands its operations to `emit`."""

    def __init__(
        self,
        emit: Callable[[Op], None],
        kv: KvPlanes,
        windows: Sequence[int | None],
        segments: Sequence[Segment],
        room: Tensor,
        threads: int,
    ) -> None:
        self._emit = emit
        self._kv = kv
        self._windows = windows
        self._room = room
        self._threads = threads
        self._table = SegmentTable(segments)

    def run(self, layer: int, queries: Tensor, out: Tensor) -> None:
        planes = self._kv.layers[layer]
        _, heads, width = queries.shape
        kv_heads = planes.shape[2]
        op = operation(Kind.ATTENTION, queries)
        op.of.attention = native.Attention(
            queries.data_ptr(),
            planes.data_ptr(),
            out.data_ptr(),
            self._table.address,
            self._room.data_ptr(),
            self._threads,
            self._table.count,
            kv_heads,
            heads // kv_heads,
            width,
            queries.stride(0),
            out.stride(0),
            planes.stride(0),
            self._windows[layer] or 0,
            1 / math.sqrt(width),
            0.0,
        )
        self._emit(op)
