"""Where keys and values can lie: one arena of rows each, made of different memory.

torch.empty     │ one allocation, as everybody else's KV cache                       │
sequential      │ chunk 0 │ chunk 1 │ chunk 2 │ …   mapped in the order of the file
shuffled        │ chunk 7 │ chunk 2 │ chunk 9 │ …   every chunk a kernel mapping of its own
paged           │ sequential memory, and pages of 16 tokens in any order             │
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch

from ellm.core.layers import KvArena, KvTable
from ellm.core.units import ceil_div
from ellm.kernels.ops import KvPlanes
from ellm.kv.geometry import KvGeometry
from ellm.memory.drivers.host import HostDriver
from ellm.runtime.runner import kv_planes

PAGE = 16


@dataclass(frozen=True, slots=True)
class Bed:
    """Memory for `sequences` sequences of `tokens` tokens, and a table of rows for each."""

    name: str
    kv: KvPlanes
    tables: list[KvTable]
    keeps: object

    @classmethod
    def make(
        cls,
        name: str,
        geometry: KvGeometry,
        sequences: int,
        tokens: int,
        chunk_bytes: int,
        rng: random.Random,
    ) -> Bed:
        """`name` is one of the four above; all have the same numbers in every layer's rows."""
        width = geometry.range_bytes(tokens, chunk_bytes)
        rows = width // geometry.row_bytes
        total = sequences * geometry.groups * width
        address, keeps = _memory(name, total, chunk_bytes, rng)
        arena = KvArena(
            address=address,
            rows=sequences * geometry.groups * rows,
            row_bytes=geometry.row_bytes,
            group_rows=rows,
            layers_per_group=geometry.layers_per_group,
            layer=geometry.layer,
        )
        kv = kv_planes(arena, geometry.num_layers, torch.bfloat16, "cpu")
        stride = geometry.groups * rows
        if name == "paged":
            tables = _pages(sequences, tokens, stride, rng)
        else:
            tables = [KvTable((index * stride,), rows) for index in range(sequences)]
        bed = cls(name, kv, tables, keeps)
        bed.fill()
        return bed

    def fill(self) -> None:
        """Random keys and values in every row that a table names, and nowhere else."""
        generator = torch.Generator().manual_seed(0)
        for plane in self.kv.layers:
            for table in self.tables:
                for start in table.starts:
                    rows = plane[start : start + table.span]
                    rows.copy_(torch.empty(rows.shape).normal_(generator=generator))


def _memory(name: str, size: int, chunk_bytes: int, rng: random.Random) -> tuple[int, object]:
    """An address, and what must be kept for it to stay valid."""
    if name == "torch.empty":
        room = torch.empty(size, dtype=torch.uint8)
        return room.data_ptr(), room
    count = ceil_div(size, chunk_bytes)
    driver = HostDriver(count * chunk_bytes, chunk_bytes)
    span, chunks = driver.reserve(count), driver.create(count)
    if name == "shuffled":
        rng.shuffle(chunks)
    driver.map(span, 0, chunks)
    return span.address, driver


def _pages(sequences: int, tokens: int, stride: int, rng: random.Random) -> list[KvTable]:
    """Every page of the arena's first group once, dealt out in any order."""
    each = tokens // PAGE
    starts = [index * stride + page * PAGE for index in range(sequences) for page in range(each)]
    rng.shuffle(starts)
    return [
        KvTable(tuple(starts[index * each : (index + 1) * each]), PAGE)
        for index in range(sequences)
    ]
