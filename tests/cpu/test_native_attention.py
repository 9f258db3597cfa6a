"""Native attention over lengths that cross tiles and splits, in every way of cutting the work."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from itertools import pairwise

import pytest
import torch
from backends import NATIVE
from device_half import aligned
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ellm.core.layers import KvTable
from ellm.core.plan import StepShape
from ellm.kernels.cpu.library import library
from ellm.kernels.cpu.ops import NativeOps
from ellm.kernels.ops import Dims, KvPlanes, Ops, Segment
from ellm.runtime.workspace import Workspace

ROOM = 8 << 20
pytestmark = pytest.mark.parametrize("name", NATIVE)


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    yield
    native = library()
    assert native is not None
    native.threads(torch.get_num_threads())


def ops_on(name: str, count: int) -> Ops:
    """Kernels of that level, on so many threads."""
    native = library()
    assert native is not None
    native.threads(count)
    return NativeOps(native, name)


class Bed:
    """Keys and values of some sequences in scattered pages; what is in no page is not a number."""

    def __init__(
        self, lengths: Sequence[int], page: int, kv_heads: int, width: int, dtype: torch.dtype
    ) -> None:
        counts = [-(-length // page) for length in lengths]
        slots = list(range(sum(counts)))
        random.Random(0).shuffle(slots)
        generator = torch.Generator().manual_seed(1)
        shape = (len(slots) * page, 2, kv_heads, width)
        self.planes = torch.full(shape, float("nan"), dtype=dtype)
        self.tables = []
        for length, count in zip(lengths, counts, strict=True):
            table = KvTable(tuple(slot * page for slot in slots[:count]), page)
            slots = slots[count:]
            rows = torch.tensor([table.row(token) for token in range(length)])
            noise = torch.randn(length, *shape[1:], generator=generator)
            self.planes[rows] = noise.to(dtype)
            self.tables.append(table)

    def attend(
        self, ops: Ops, queries: Tensor, parts: Sequence[tuple[int, int, int]], window: int | None
    ) -> Tensor:
        """`parts` are (sequence, first position, count); queries are theirs side by side."""
        shape, segments, first = StepShape(), [], 0
        for sequence, start, count in parts:
            segments.append(Segment(first, count, start, self.tables[sequence]))
            shape = shape.with_sequence(count, start + count, 0, True)
            first += count
        heads, width = queries.shape[1:]
        dims = Dims(heads * width, heads, self.planes.shape[2], width, 0, (window,), queries.dtype)
        memory = aligned(ROOM)
        temp = ops.temp(Workspace(memory.data_ptr(), ROOM), dims, shape)
        out = torch.full_like(queries, float("nan"))
        ops.plan_attention(KvPlanes((self.planes,)), [window], segments, temp).run(0, queries, out)
        return out

    def wanted(self, queries: Tensor, sequence: int, start: int, window: int | None) -> Tensor:
        table, length = self.tables[sequence], start + len(queries)
        rows = torch.tensor([table.row(token) for token in range(length)])
        keys, values = self.planes[rows].double().unbind(1)
        group = queries.shape[1] // keys.shape[1]
        keys, values = (x.repeat_interleave(group, 1) for x in (keys, values))
        scores = torch.einsum("qhd,thd->hqt", queries.double(), keys) / queries.shape[2] ** 0.5
        at = torch.arange(start, length)[:, None] - torch.arange(length)
        hidden = (at < 0) | (at >= (window or length))
        weights = scores.masked_fill(hidden, float("-inf")).softmax(-1)
        return torch.einsum("hqt,thd->qhd", weights, values)


@settings(max_examples=25)
@given(
    lengths=st.lists(st.tuples(st.integers(0, 2200), st.integers(1, 90)), min_size=1, max_size=3),
    page=st.sampled_from([16, 100, 4096]),
    heads=st.sampled_from([(1, 1), (2, 3), (2, 7), (1, 60), (4, 1)]),
    width=st.sampled_from([16, 64, 80, 128]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    window=st.sampled_from([None, 1, 100, 1500]),
    count=st.sampled_from([1, 2, 3]),
    seed=st.integers(0, 99),
)
def test_long_sequences(
    name: str,
    lengths: list[tuple[int, int]],
    page: int,
    heads: tuple[int, int],
    width: int,
    dtype: torch.dtype,
    window: int | None,
    count: int,
    seed: int,
) -> None:
    ops = ops_on(name, count)
    bed = Bed([before + now for before, now in lengths], page, heads[0], width, dtype)
    total = sum(now for _, now in lengths)
    generator = torch.Generator().manual_seed(seed)
    queries = torch.randn(total, heads[0] * heads[1], width, generator=generator).to(dtype)
    parts = [(index, before, now) for index, (before, now) in enumerate(lengths)]
    found = bed.attend(ops, queries, parts, window)
    first = 0
    for index, before, now in parts:
        mine = slice(first, first + now)
        wanted = bed.wanted(queries[mine], index, before, window)
        limit = 2e-5 if dtype == torch.float32 else 3e-2
        torch.testing.assert_close(found[mine].double(), wanted, atol=limit, rtol=0)
        first += now


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("window", [None, 700])
def test_a_query_has_one_answer_however_the_work_is_cut(
    name: str, dtype: torch.dtype, window: int | None
) -> None:
    """Bit for bit: alone or among others, in a prompt or decoding, on one thread or three."""
    length, other = 2100, 300
    bed = Bed([length, other], 48, 2, 64, dtype)
    generator = torch.Generator().manual_seed(3)
    queries = torch.randn(length, 6, 64, generator=generator).to(dtype)
    beside = torch.randn(other, 6, 64, generator=generator).to(dtype)
    whole = bed.attend(ops_on(name, 1), queries, [(0, 0, length)], window)
    for count in (1, 3):
        ops = ops_on(name, count)
        both = bed.attend(
            ops, torch.cat([beside, queries]), [(1, 0, other), (0, 0, length)], window
        )
        assert torch.equal(both[other:], whole)
        cut = [0, 1, 5, 1023, 1024, 1025, 1999, length]
        for first, last in pairwise(cut):
            part = bed.attend(ops, queries[first:last], [(0, first, last - first)], window)
            assert torch.equal(part, whole[first:last]), (first, last, count)


def test_threads_that_came_later_have_no_room_and_take_none(name: str) -> None:
    """Another model of the process may set more: what lies behind the room stays as it was."""
    ops, length = ops_on(name, 1), 1500
    ops_on(name, 4)
    bed = Bed([length, length], 64, 2, 64, torch.float32)
    queries = torch.randn(2 * 400, 6, 64, generator=torch.Generator().manual_seed(5))
    shape = StepShape(800, 0, 400, length, True)
    dims = Dims(6 * 64, 6, 2, 64, 0, (None,), torch.float32)
    memory = aligned(ROOM)
    workspace = Workspace(memory.data_ptr(), ROOM)
    temp = ops.temp(workspace, dims, shape)
    segments = [Segment(400 * n, 400, length - 400, bed.tables[n]) for n in range(2)]
    out = torch.empty_like(queries)
    before = memory[workspace.peak :].clone()
    ops.plan_attention(KvPlanes((bed.planes,)), [None], segments, temp).run(0, queries, out)
    assert torch.equal(memory[workspace.peak :], before)
    for n in range(2):
        mine = slice(400 * n, 400 * (n + 1))
        wanted = bed.wanted(queries[mine], n, length - 400, None)
        torch.testing.assert_close(out[mine].double(), wanted, atol=2e-5, rtol=0)
