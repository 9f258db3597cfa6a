"""The segment table as the native library reads it."""

from __future__ import annotations

from array import array
from collections.abc import Sequence

from ellm.kernels.ops import Segment

_INT64 = "q"
_ITEM = 8


class SegmentTable:
    """`struct ellm_segment` for each sequence, in one array, and their rows in another.

    struct     first  count  start  address of starts  span  room for the library
    """

    __slots__ = ("_entries", "_starts", "address", "count")

    def __init__(self, segments: Sequence[Segment]) -> None:
        self._starts = array(_INT64, [at for one in segments for at in one.table.starts])
        place = self._starts.buffer_info()[0]
        entries: list[int] = []
        for one in segments:
            entries += (one.first, one.count, one.start, place, one.table.span, 0)
            place += _ITEM * len(one.table.starts)
        self._entries = array(_INT64, entries)
        self.address = self._entries.buffer_info()[0]
        self.count = len(segments)
