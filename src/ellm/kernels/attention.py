"""Causal attention over an arena of rows, with PyTorch's scaled dot-product attention.

A sequence whose rows are one run is attended where it lies; the rows of a paged one are first
gathered.  Keys and values are never repeated for grouped queries:

    one query         the G query heads of a key head are G queries of it     [1, kv_heads, G, D]
    several queries   key heads are the batch, keys have stride 0 over G      [kv_heads, G, n, D]

Several queries that see earlier tokens, or only a window of them, go in blocks of `BLOCK` under a
mask that is a corner of one triangle, shared by all sequences and layers:

    block    queries at positions [last - n, last)
    keys     tokens [first, last), first = 0 or what the window of the block's first query reaches
    mask     the bottom right n × (last - first) of the triangle
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from ellm.core.layers import KvTable
from ellm.core.plan import StepShape
from ellm.kernels.ops import KvPlanes, Segment

BLOCK = 128


def mask_shape(window: int | None, shape: StepShape) -> tuple[int, int]:
    """Room for a window's triangle in a step of this shape; nothing where all decode."""
    if shape.longest_query <= 1:
        return (0, 0)
    rows = min(BLOCK, shape.longest_query)
    columns = max(rows, shape.longest_kv)
    return (rows, columns if window is None else min(columns, window + rows))


@dataclass(frozen=True, slots=True)
class _Rows:
    """Where the keys of tokens [first, last) are: one run, or pages and their ragged ends."""

    first: int
    runs: tuple[tuple[int, int], ...]
    span: int
    inner: Tensor | None

    @classmethod
    def of(cls, table: KvTable, first: int, last: int, device: torch.device) -> _Rows:
        runs = table.runs(first, last)
        if all(before[1] == after[0] for before, after in itertools.pairwise(runs)):
            return cls(first, ((runs[0][0], runs[-1][1]),), table.span, None)
        inner = torch.tensor([start for start, _ in runs[1:-1]], device=device)
        return cls(first, (runs[0], runs[-1]), table.span, inner if len(runs) > 2 else None)

    def fetch(self, planes: Tensor, room: Tensor) -> Tensor:
        """[tokens, 2, kv_heads, head_dim]: the arena itself, or a copy in `room`."""
        start, stop = self.runs[0]
        if len(self.runs) == 1:
            return planes[start:stop]
        filled = stop - start
        room[:filled].copy_(planes[start:stop])
        if self.inner is not None:
            filled += self._gather(planes, self.inner, room[filled:])
        start, stop = self.runs[1]
        room[filled : filled + stop - start].copy_(planes[start:stop])
        return room[: filled + stop - start]

    def _gather(self, planes: Tensor, starts: Tensor, room: Tensor) -> int:
        """Copy whole pages: index a view in which page r is rows [r, r + span)."""
        pages, span, row = len(starts), self.span, planes.stride(0)
        overlapping = planes.as_strided(
            (planes.shape[0] - span + 1, span, *planes.shape[1:]),
            (row, row, *planes.stride()[1:]),
        )
        target = room[: pages * span].view(pages, span, *planes.shape[1:])
        torch.index_select(overlapping, 0, starts, out=target)
        return pages * span


@dataclass(frozen=True, slots=True)
class _Block:
    """Queries in batch rows [row, row + count) over keys [first, last) of what was fetched.

    `mask` None with several queries means plainly causal: they are all the tokens there are.
    """

    row: int
    count: int
    first: int
    last: int
    mask: Tensor | None


@dataclass(slots=True)
class _Window:
    """The work of all layers that see through one window."""

    window: int | None
    mask: Tensor
    sequences: list[tuple[_Rows, list[_Block]]] = field(default_factory=list)
    drawn: bool = False

    def add(self, segment: Segment, device: torch.device) -> None:
        first = self._reach(segment.start)
        rows = _Rows.of(segment.table, first, segment.length, device)
        self.sequences.append((rows, self._blocks(segment, first)))

    def _reach(self, position: int) -> int:
        """The first token that a query at `position` sees."""
        return 0 if self.window is None else max(0, position + 1 - self.window)

    def _blocks(self, segment: Segment, base: int) -> list[_Block]:
        row, count, length = segment.first, segment.count, segment.length
        unwindowed = self.window is None or length <= self.window
        if count == 1 or (segment.start == 0 and unwindowed):
            return [_Block(row, count, 0, length - base, None)]
        blocks = []
        for begin in range(0, count, BLOCK):
            taken = min(BLOCK, count - begin)
            first = self._reach(segment.start + begin)
            last = segment.start + begin + taken
            mask = self._triangle(taken, last - first)
            blocks.append(_Block(row + begin, taken, first - base, last - base, mask))
        return blocks

    def _triangle(self, queries: int, keys: int) -> Tensor:
        if not self.drawn:
            self._draw()
            self.drawn = True
        rows, columns = self.mask.shape
        assert queries <= rows, (queries, rows)
        assert keys <= columns, (keys, columns)
        corner = self.mask[rows - queries :, columns - keys :]
        # Kernels of GPUs read 16 bytes of a mask at a time, wherever it begins.
        return corner if corner.is_cpu else corner.clone(memory_format=torch.contiguous_format)

    def _draw(self) -> None:
        rows, columns = self.mask.shape
        self.mask.fill_(float("-inf")).triu_(columns - rows + 1)
        if self.window is not None:
            for row in range(rows):
                hidden = columns - rows + row + 1 - self.window
                if hidden > 0:
                    self.mask[row, :hidden] = float("-inf")


class SdpaPlan:
    """kernels.ops.AttentionPlan on `torch.nn.functional.scaled_dot_product_attention`."""

    def __init__(
        self,
        kv: KvPlanes,
        windows: Sequence[int | None],
        segments: Sequence[Segment],
        masks: Sequence[Tensor],
        gathered: Tensor,
    ) -> None:
        self._kv = kv
        self._gathered = gathered
        distinct = dict.fromkeys(windows)
        work = {w: _Window(w, m) for w, m in zip(distinct, masks, strict=True)}
        for window in work.values():
            for segment in segments:
                window.add(segment, kv.layers[0].device)
        self._layers = [work[window] for window in windows]

    def run(self, layer: int, queries: Tensor, out: Tensor) -> None:
        planes = self._kv.layers[layer]
        tokens, heads, width = queries.shape
        kv_heads = planes.shape[2]
        grouped = (tokens, kv_heads, heads // kv_heads, width)
        queries, out = queries.view(grouped), out.view(grouped)
        for rows, blocks in self._layers[layer].sequences:
            fetched = rows.fetch(planes, self._gathered)
            keys, values = fetched.permute(1, 2, 0, 3).unbind(0)
            for block in blocks:
                _attend(block, queries, keys, values, out)


def _attend(block: _Block, queries: Tensor, keys: Tensor, values: Tensor, out: Tensor) -> None:
    """`queries` and `out` are [T, kv_heads, G, D]; `keys` and `values` are [kv_heads, n, D]."""
    end = block.row + block.count
    keys, values = (plane[:, block.first : block.last] for plane in (keys, values))
    if block.count == 1:
        out[block.row : end].copy_(
            F.scaled_dot_product_attention(queries[block.row : end], keys[None], values[None])
        )
        return
    group = queries.shape[2]
    keys, values = (plane[:, None].expand(-1, group, -1, -1) for plane in (keys, values))
    answer = F.scaled_dot_product_attention(
        queries[block.row : end].permute(1, 2, 0, 3),
        keys,
        values,
        attn_mask=block.mask,
        is_causal=block.mask is None,
    )
    out[block.row : end].copy_(answer.permute(2, 0, 1, 3))
