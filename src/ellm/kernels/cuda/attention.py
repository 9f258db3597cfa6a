"""Attention of one step: prompts by one kernel, then sequences that decode by another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from ellm.kernels.cuda import decoding, prompts
from ellm.kernels.cuda.decoding import Parts
from ellm.kernels.cuda.table import SequenceTable
from ellm.kernels.ops import KvPlanes, Temp


@dataclass(frozen=True, slots=True)
class Room(Temp):
    """For the table of the sequences, parts of answers, and the longest prompt in pages.

    `paged` says that the table has to name pages.
    """

    table: Tensor
    parts: Parts
    gathered: Tensor
    paged: bool


class TableAttention:
    """kernels.ops.AttentionPlan over what `table` has when a layer is run."""

    def __init__(
        self, kv: KvPlanes, windows: Sequence[int | None], table: SequenceTable, room: Room
    ) -> None:
        self._kv = kv
        self._windows = windows
        self._table = table
        self._room = room

    def run(self, layer: int, queries: Tensor, out: Tensor) -> None:
        planes, window = self._kv.layers[layer], self._windows[layer]
        table, room = self._table, self._room
        # These may write rows between them, of sequences that decode.
        for run in table.prompts:
            prompts.attend(queries, planes, out, run, room.gathered, window=window, span=table.span)
        if table.decoding:
            decoding.attend(
                queries,
                planes,
                table.entries,
                out,
                room.parts,
                rows=table.decoding,
                window=window,
                span=table.span,
            )
