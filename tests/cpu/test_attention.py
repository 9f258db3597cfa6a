"""Attention over random tables, windows and cuts against a double loop in float64."""

from __future__ import annotations

import random
from dataclasses import dataclass

import pytest
import torch
from backends import BACKENDS
from device_half import aligned
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ellm.core.layers import KvTable
from ellm.core.plan import StepShape
from ellm.kernels import attention
from ellm.kernels.ops import Dims, KvPlanes, Ops, Segment
from ellm.runtime.workspace import Workspace

WIDTH = 8


@dataclass(frozen=True)
class Case:
    """Sequences as (tokens already stored, tokens in this step), one page size for all."""

    lengths: tuple[tuple[int, int], ...]
    page: int
    kv_heads: int
    group: int
    windows: tuple[int | None, ...]
    seed: int


cases = st.builds(
    Case,
    lengths=st.lists(
        st.tuples(st.integers(0, 20), st.one_of(st.just(1), st.integers(1, 20))),
        min_size=1,
        max_size=4,
    ).map(tuple),
    page=st.sampled_from([1, 3, 4, 64]),
    kv_heads=st.integers(1, 3),
    group=st.integers(1, 3),
    windows=st.sampled_from([(None,), (5,), (None, 3), (16, None, 1)]),
    seed=st.integers(0, 2**20),
)


def naive(queries: Tensor, keys: Tensor, values: Tensor, start: int, window: int | None) -> Tensor:
    """[n, heads, D] over [length, kv_heads, D], one query and head at a time."""
    out = torch.empty_like(queries, dtype=torch.float64)
    group = queries.shape[1] // keys.shape[1]
    for index in range(queries.shape[0]):
        last = start + index + 1
        first = 0 if window is None else max(0, last - window)
        for head in range(queries.shape[1]):
            k = keys[first:last, head // group].double()
            scores = k @ queries[index, head].double() / WIDTH**0.5
            out[index, head] = scores.softmax(0) @ values[first:last, head // group].double()
    return out


def tables(case: Case) -> tuple[list[KvTable], int]:
    """A table of scattered pages for each sequence, and the rows that all need together."""
    counts = [-(-(before + now) // case.page) for before, now in case.lengths]
    slots = list(range(sum(counts)))
    random.Random(case.seed).shuffle(slots)
    found = []
    for count in counts:
        found.append(KvTable(tuple(slot * case.page for slot in slots[:count]), case.page))
        slots = slots[count:]
    return found, sum(counts) * case.page


def run(case: Case, ops: Ops) -> None:
    placed, rows = tables(case)
    heads, layers = case.kv_heads * case.group, len(case.windows)
    generator = torch.Generator().manual_seed(case.seed)
    arena = torch.full((rows, layers, 2, case.kv_heads, WIDTH), float("nan"))
    shape, segments, first = StepShape(), [], 0
    for (before, now), table in zip(case.lengths, placed, strict=True):
        length = before + now
        # What the window of every layer has left behind stays poisoned.
        widest = None if None in case.windows else max(case.windows)  # type: ignore[type-var]
        oldest = 0 if widest is None else max(0, before + 1 - widest)
        for token in range(oldest, length):
            noise = torch.randn(arena.shape[1:], generator=generator)
            arena[table.row(token)] = noise
        segments.append(Segment(first, now, before, table))
        shape = shape.with_sequence(now, length, 0, len(table.starts) > 1)
        first += now
    queries = torch.randn(first, heads, WIDTH, generator=generator)
    memory = aligned(1 << 20)
    distinct = tuple(dict.fromkeys(case.windows))
    dims = Dims(heads * WIDTH, heads, case.kv_heads, WIDTH, 0, distinct, torch.float32)
    temp = ops.temp(Workspace(memory.data_ptr(), 1 << 20), dims, shape)
    kv = KvPlanes(tuple(arena.unbind(1)))
    plan = ops.plan_attention(kv, case.windows, segments, temp)
    for layer, window in enumerate(case.windows):
        out = torch.empty_like(queries)
        plan.run(layer, queries, out)
        for segment in segments:
            mine = slice(segment.first, segment.first + segment.count)
            index = torch.tensor([segment.table.row(t) for t in range(segment.length)])
            keys, values = arena[index, layer].unbind(1)
            wanted = naive(queries[mine], keys, values, segment.start, window)
            torch.testing.assert_close(out[mine].double(), wanted, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", BACKENDS)
@settings(max_examples=60)
@given(case=cases)
def test_attention_is_the_naive_one(name: str, case: Case) -> None:
    run(case, BACKENDS[name])


def test_blocks_shorter_than_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "BLOCK", 4)

    @settings(max_examples=60)
    @given(cases)
    def check(case: Case) -> None:
        run(case, BACKENDS["reference"])

    check()
