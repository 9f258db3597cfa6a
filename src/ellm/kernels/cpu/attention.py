"""Attention of one step by the native library, over its segment table."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from ctypes import addressof, byref, c_int64
from typing import Any

from torch import Tensor

from ellm.kernels.cpu import library as native
from ellm.kernels.cpu.library import Kind, operation
from ellm.kernels.ops import KvPlanes, Segment


class NativeAttention:
    """kernels.ops.AttentionPlan over the segment table, made once a step."""

    def __init__(
        self,
        run: Callable[[Any, int], None],
        kv: KvPlanes,
        windows: Sequence[int | None],
        segments: Sequence[Segment],
        room: Tensor,
    ) -> None:
        self._run = run
        self._kv = kv
        self._windows = windows
        self._room = room
        starts = [start for segment in segments for start in segment.table.starts]
        self._starts = (c_int64 * len(starts))(*starts)
        self._segments = (native.Segment * len(segments))()
        address = addressof(self._starts)
        for segment, entry in zip(segments, self._segments, strict=True):
            entry.first, entry.count, entry.start = segment.first, segment.count, segment.start
            entry.starts, entry.span = address, segment.table.span
            address += 8 * len(segment.table.starts)

    def run(self, layer: int, queries: Tensor, out: Tensor) -> None:
        planes = self._kv.layers[layer]
        _, heads, width = queries.shape
        kv_heads = planes.shape[2]
        op = operation(Kind.ATTENTION, queries)
        op.of.attention = native.Attention(
            queries.data_ptr(),
            planes.data_ptr(),
            out.data_ptr(),
            addressof(self._segments),
            self._room.data_ptr(),
            len(self._segments),
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
        self._run(byref(op), 1)
