"""A recorded step: the operations of one shape, done again without Python between them.

Addresses of weights, KV planes and workspace never move (core/layers.py, runtime/workspace.py), so
what was recorded once stays true; only how many rows there are, and whose tokens they are, is new
in every step.  Source: Nimble (arXiv 2012.02732), ahead-of-time scheduling, section 4.1.
"""

from __future__ import annotations

from collections.abc import Sequence

from ellm.kernels.cpu.library import Library, Op
from ellm.kernels.cpu.segments import SegmentTable
from ellm.kernels.ops import Segment


class Tape:
    """kernels.ops.Program of the native library."""

    def __init__(self, library: Library, level: int, ops: Sequence[Op]) -> None:
        self._library = library
        self._level = level
        self._ops = (Op * len(ops))(*ops)

    def run(self, rows: int, segments: Sequence[Segment]) -> None:
        table = SegmentTable(segments)
        self._library.replay(
            self._level, self._ops, len(self._ops), rows, table.address, table.count
        )
