"""Every op of the CUDA backend against PyTorch's, or against the textbook in float64.

Not collected by itself: `tests/gpu/test_cuda_ops.py` runs it on a device, and
`test_interpreted_kernels.py` on the CPU, where Triton's interpreter takes the device's place
and numbers are few.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import cycle
from typing import Any

import pytest
import torch
from interpreted import DEVICE, INTERPRETED, stand_in
from torch import Tensor

from ellm.core.layers import KvTable
from ellm.core.plan import StepShape
from ellm.kernels.activation import Activation
from ellm.kernels.cuda import decoding, products, prompts
from ellm.kernels.cuda import table as tables
from ellm.kernels.cuda.ops import CudaOps
from ellm.kernels.ops import Changes, Dims, KvPlanes, Segment, Temp
from ellm.kernels.reference import ReferenceOps
from ellm.runtime.workspace import Workspace

ROOM = (16 if INTERPRETED else 1024) << 20
# The interpreter multiplies no bfloat16, and rounds to it towards zero.
DTYPES = [torch.float16, torch.float32] if INTERPRETED else [torch.float16, torch.bfloat16]
# Relative to the largest number: two roundings, in the last bits of each dtype.
TOLERANCE = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}
# Key heads, queries of each, width.
HEADS = [(2, 3, 40)]
if not INTERPRETED:
    HEADS += [(8, 4, 128), (2, 7, 80), (1, 16, 256), (12, 1, 64), (1, 71, 64)]

# Of matrices: how many numbers come out, and go in.
SIZES = [(37, 300), (64, 1024)]
if not INTERPRETED:
    SIZES += [(4096, 4096), (1120, 3000), (32_000, 512)]

# Views own nothing: these are kept, and a test has no more rooms than that at once.
_memories = cycle([torch.empty(ROOM, dtype=torch.uint8, device=DEVICE) for _ in range(2)])
ops, reference = CudaOps(), ReferenceOps()
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)
some_dtypes = pytest.mark.parametrize("dtype", DTYPES[-1:], ids=str)
pytestmark = pytest.mark.filterwarnings("ignore:overflow encountered in exp:RuntimeWarning")


@pytest.fixture(autouse=True)
def device(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch)


def numbers(seed: int, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE, dtype)


def room() -> Workspace:
    """Memory of which nothing was written: every float in it is not a number."""
    memory = next(_memories).fill_(0xFF)
    return Workspace(-(-memory.data_ptr() // 64) * 64, ROOM - 64, DEVICE)


def close(found: Tensor, wanted: Tensor) -> None:
    scale = max(1.0, float(wanted.abs().max()))
    limit = TOLERANCE[found.dtype] * scale
    torch.testing.assert_close(found.double(), wanted.double(), atol=limit, rtol=0)


def temps(rows: int, width: int, dtype: torch.dtype) -> tuple[Temp, Temp]:
    dims, shape = Dims(width, 1, 1, width, width, (None,), dtype), StepShape(rows, 0, rows, rows)
    return ops.temp(room(), dims, shape), reference.temp(room(), dims, shape)


@dtypes
@pytest.mark.parametrize("width", [1, 48, 200, 4096])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("way", ["alone", "added", "into added", "in place"])
def test_norm(dtype: torch.dtype, width: int, biased: bool, way: str) -> None:
    rows = 3
    ours, theirs = (numbers(1, rows, width, dtype=dtype) for _ in range(2))
    added, weight, bias = (numbers(2 + i, rows, width, dtype=dtype) for i in range(3))
    weight, bias = weight[0].contiguous(), bias[0].contiguous()
    found: list[Tensor] = []
    for table, x, temp in zip(
        (ops, reference), (ours, theirs), temps(rows, width, dtype), strict=True
    ):
        more = None if way in ("alone", "in place") else added.clone()
        out = {"into added": more, "in place": x}.get(way)
        out = torch.full_like(x, float("nan")) if out is None else out
        if biased:
            table.layer_norm(x, weight, bias, 1e-5, out, temp, more)
        else:
            table.rms_norm(x, weight, 1e-5, out, temp, more)
        found.append(out)
    close(found[0], found[1])
    if way == "added":
        assert torch.equal(ours, theirs), "the sum is rounded otherwise"


@dtypes
def test_norm_of_heads_within_wider_rows(dtype: torch.dtype) -> None:
    wide = numbers(1, 3, 7, 40, dtype=dtype)
    weight, mine = numbers(2, 40, dtype=dtype), wide.clone()
    temp = reference.temp(room(), Dims(280, 7, 1, 40, 40, (None,), dtype), StepShape(3, 0, 3, 3))
    ops.rms_norm(mine[:, 2:5], weight, 1e-6, mine[:, 2:5], temp)
    reference.rms_norm(wide[:, 2:5], weight, 1e-6, wide[:, 2:5], temp)
    close(mine, wide)


@dtypes
@pytest.mark.parametrize(("heads", "width", "half"), [(3, 16, 8), (11, 40, 12), (40, 128, 64)])
def test_rotary(dtype: torch.dtype, heads: int, width: int, half: int) -> None:
    """Keys and values go to some rows; those of padding nowhere."""
    rows, known = 6, 5
    frequencies = torch.tensor([10000 ** (-i / half) for i in range(half)], device=DEVICE)
    positions = torch.tensor([0, 1, 77, 4097, 131_000], device=DEVICE)
    dims = Dims(heads * width, heads - 2, 2, width, 2 * half, (None,), dtype)
    rotated = []
    for table in (ops, reference):
        temp = table.temp(room(), dims, StepShape(rows, 0, rows, rows))
        cos, sin = (torch.empty(rows, 1, 1, half, dtype=dtype, device=DEVICE) for _ in range(2))
        table.angles(positions, frequencies, 1.25, cos, sin, temp)
        x = numbers(3, rows, heads + 2, width, dtype=dtype)
        planes = torch.zeros(20, 3, 2, 2, width, dtype=dtype, device=DEVICE)
        to = torch.tensor([7, 3, 0, 19, 2], device=DEVICE)
        table.store_kv(planes[:, 1], to, x, temp, (cos, sin))
        rotated.append((cos[:known], sin[:known], x[:known, : heads - 2], planes))
    assert torch.equal(rotated[0][3][:, :, 1], rotated[1][3][:, :, 1]), "values changed"
    for mine, theirs in zip(*rotated, strict=True):
        # One angle in a float32 differs by its own rounding: 131000 × 2**-24.
        torch.testing.assert_close(
            mine.double(), theirs.double(), atol=0.02 + 4 * TOLERANCE[dtype], rtol=0
        )
        assert (mine - theirs).abs().mean() < TOLERANCE[dtype]


@dtypes
@pytest.mark.parametrize("turned", [False, True])
def test_store_leaves_rows_of_padding_and_others_alone(dtype: torch.dtype, turned: bool) -> None:
    base = torch.zeros(20, 3, 2, 2, 40, dtype=dtype, device=DEVICE)
    qkv = numbers(1, 5, 6, 40, dtype=dtype)
    kv = qkv[:, 2:].reshape(5, 2, 2, 40)
    rows = torch.tensor([7, -1, 0, 19], device=DEVICE)
    # By no angle, of the first 24 numbers: nothing changes.
    cos = torch.ones(5, 1, 1, 12, dtype=dtype, device=DEVICE)
    ops.store_kv(base[:, 1], rows, qkv, Temp(), (cos, cos * 0) if turned else None)
    wanted = torch.zeros_like(base)
    for row, value in zip(rows.tolist(), kv, strict=False):
        if row >= 0:
            wanted[row, 1] = value
    assert torch.equal(base, wanted)


@dtypes
@pytest.mark.parametrize("activation", Activation)
@pytest.mark.parametrize("gated", [False, True])
def test_activate(dtype: torch.dtype, activation: Activation, gated: bool) -> None:
    x = 4 * numbers(1, 3, 1300 * (1 + gated), dtype=dtype)
    mine, theirs = (torch.empty(3, 1300, dtype=dtype, device=DEVICE) for _ in range(2))
    ops.activate(activation, x, gated, mine)
    reference.activate(activation, x.clone(), gated, theirs)
    close(mine, theirs)


@dtypes
def test_the_first_of_the_likeliest(dtype: torch.dtype) -> None:
    inf, nan = float("inf"), float("nan")
    x = numbers(1, 8, 5000, dtype=dtype)
    x[1, 4999] = x[1, 4098] = x[1, 4097] = 9
    x[2, 3] = nan
    x[3] = -inf
    x[4] = nan
    x[5, 17], x[5, 4500] = inf, inf
    x[6, 4999] = 8
    how = torch.tensor([[0.0, 0, 0, 1, 0]] * 8, dtype=torch.float64)
    nowhere = torch.zeros(9, dtype=torch.int64)
    changes = Changes(nowhere, nowhere[:0], torch.empty(0, device=DEVICE))
    mine = torch.full((8,), -1, device=DEVICE)
    ops.sample(x, how, changes, mine, ops.logit_temp(room(), 8, 5000, 4))
    clean = torch.nan_to_num(x.float().cpu(), nan=-inf, posinf=1e30, neginf=-inf)
    wanted = [int((row == row.max()).nonzero()[0]) for row in clean]
    assert mine.tolist() == wanted
    assert wanted[1:6] == [4097, wanted[2], 0, 0, 17]


@some_dtypes
@pytest.mark.parametrize("way", products.SINGLE, ids=["library", "few, 16", "few, 32", "one"])
@pytest.mark.parametrize("rows", [1, 2, 5, 16])
@pytest.mark.parametrize(("outs", "width"), SIZES)
@pytest.mark.parametrize("biased", [False, True])
def test_products_of_few_rows(
    dtype: torch.dtype, way: products.Way, rows: int, outs: int, width: int, biased: bool
) -> None:
    """Also of rows that are cut from wider ones."""
    if way is products.SINGLE[-1] and rows > 1:
        return
    x = numbers(1, rows, width + 8, dtype=dtype)[:, :width]
    weight, bias = numbers(2, outs, width, dtype=dtype), numbers(3, outs, dtype=dtype)
    out = torch.full((rows + 1, outs), float("nan"), dtype=dtype, device=DEVICE)
    way(x, weight, bias if biased else None, out[:rows])
    wanted = x.double() @ weight.double().t() + (bias.double() if biased else 0)
    close(out[:rows], wanted)
    assert bool(out[rows:].isnan().all())


@dtypes
def test_linear(dtype: torch.dtype) -> None:
    """By whichever way, which stays the same."""
    for rows in (1, 3, 16, 17):
        x, weight = numbers(1, rows, 256, dtype=dtype), numbers(2, 96, 256, dtype=dtype)
        found = [torch.empty(rows, 96, dtype=dtype, device=DEVICE) for _ in range(2)]
        for out in found:
            ops.pack(weight)
            ops.linear(x, weight, None, out)
        assert torch.equal(*found)
        close(found[0], x.double() @ weight.double().t())


@pytest.mark.parametrize("count", [1, 300])
def test_awaited_tokens_are_those_of_the_step_before(count: int) -> None:
    """Ids below 0 name a place among what was answered; the others stay."""
    answers = torch.arange(1000, 1040, device=DEVICE)
    ids = torch.arange(count, device=DEVICE)
    ids[::3] = -1 - (ids[::3] * 7) % 40
    wanted = [1000 + (i * 7) % 40 if i % 3 == 0 else i for i in range(count)]
    ops.follow(ids, answers)
    assert ids.tolist() == wanted


def rows_of(table: KvTable, tokens: int) -> Tensor:
    at = torch.arange(tokens)
    return torch.tensor(table.starts)[at // table.span] + at % table.span


class Bed:
    """Keys and values of some sequences, each in one run or in scattered pages.

    What is in no sequence is not a number.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        page: int | None,
        kv_heads: int,
        width: int,
        dtype: torch.dtype,
    ) -> None:
        span = page or max(lengths) + 3
        counts = [-(-length // span) for length in lengths]
        slots = list(range(sum(counts)))
        random.Random(0).shuffle(slots)
        # Of two layers that share rows, the second.
        arena = torch.full((len(slots) * span, 2, 2, kv_heads, width), float("nan"))
        self.tables = []
        for number, (length, count) in enumerate(zip(lengths, counts, strict=True)):
            table = KvTable(tuple(slot * span for slot in slots[:count]), span)
            slots = slots[count:]
            rows = rows_of(table, length)
            noise = torch.Generator().manual_seed(number)
            arena[rows, 1] = torch.randn(length, 2, kv_heads, width, generator=noise)
            self.tables.append(table)
        self.planes = arena.to(DEVICE, dtype)[:, 1]

    def hide(self, sequence: int, tokens: int) -> None:
        """Make what is in front of so many tokens not a number."""
        if tokens > 0:
            self.planes[rows_of(self.tables[sequence], tokens).to(DEVICE)] = float("nan")

    def wanted(self, queries: Tensor, sequence: int, start: int, window: int | None) -> Tensor:
        length = start + len(queries)
        rows = rows_of(self.tables[sequence], length)
        keys, values = self.planes[rows.to(DEVICE)].double().nan_to_num().unbind(1)
        group = queries.shape[1] // keys.shape[1]
        keys, values = (x.repeat_interleave(group, 1) for x in (keys, values))
        scores = torch.einsum("qhd,thd->hqt", queries.double(), keys) / queries.shape[2] ** 0.5
        at = torch.arange(start, length)[:, None] - torch.arange(length)
        hidden = ((at < 0) | (at >= (window or length))).to(DEVICE)
        weights = scores.masked_fill(hidden, float("-inf")).softmax(-1)
        return torch.einsum("hqt,thd->qhd", weights, values)


Part = tuple[int, int, int]
"""A sequence, the position of its first query, and how many there are."""


def laid_out(bed: Bed, parts: Sequence[Part]) -> tuple[StepShape, list[Segment]]:
    """Queries of the parts side by side."""
    shape, segments = StepShape(), []
    for sequence, start, count in parts:
        table = bed.tables[sequence]
        segments.append(Segment(shape.tokens, count, start, table))
        shape = shape.with_sequence(count, start + count, 0, len(table.starts) > 1)
    return shape, segments


def attend(
    bed: Bed, queries: Tensor, parts: Sequence[Part], window: int | None, padded: int = 0
) -> Tensor:
    """With as many rows as `padded` says, as captured."""
    shape, segments = laid_out(bed, parts)
    _, heads, width = queries.shape
    dims = Dims(heads * width, heads, bed.planes.shape[2], width, 0, (window,), queries.dtype)
    if padded:
        shape = StepShape(padded, 0, shape.longest_query, shape.longest_kv, shape.gathers)
    temp = ops.temp(room(), dims, shape)
    out = torch.full_like(queries, float("nan"))
    ops._tables = [] if padded else None
    try:
        plan = ops.plan_attention(KvPlanes((bed.planes,)), [window], segments, temp)
        for table in ops._tables or ():
            table.write(segments)
    finally:
        ops._tables = None
    plan.run(0, queries, out)
    return out


def check(bed: Bed, heads: int, parts: Sequence[Part], window: int | None, padded: int = 0) -> None:
    rows, width = sum(count for _, _, count in parts), bed.planes.shape[3]
    queries = numbers(9, max(rows, padded), heads + 2, width, dtype=bed.planes.dtype)[:, :heads]
    found = attend(bed, queries, parts, window, padded)
    first = 0
    for sequence, start, count in parts:
        mine = slice(first, first + count)
        close(found[mine], bed.wanted(queries[mine], sequence, start, window))
        first += count
    assert bool(found[rows:].isnan().all()), "rows of padding were written"


heads = pytest.mark.parametrize("heads", HEADS, ids=lambda h: "x".join(map(str, h)))
pages = pytest.mark.parametrize("page", [None, 16, 5])
windows = pytest.mark.parametrize("window", [None, 40] if INTERPRETED else [None, 1, 1000])
LENGTHS = (1, 63, 64, 130) if INTERPRETED else (1, 63, 64, 65, 511, 513, 1700, 5000)


@some_dtypes
@heads
@pages
@windows
def test_decoding(
    dtype: torch.dtype, heads: tuple[int, int, int], page: int | None, window: int | None
) -> None:
    kv_heads, group, width = heads
    bed = Bed(LENGTHS, page, kv_heads, width, dtype)
    parts = [(index, length - 1, 1) for index, length in enumerate(LENGTHS)]
    if window is not None:
        for index, length in enumerate(LENGTHS):
            bed.hide(index, length - window)
    check(bed, kv_heads * group, parts, window)


@pages
def test_decoding_with_rows_of_padding(page: int | None) -> None:
    bed = Bed(LENGTHS, page, 2, 64, DTYPES[0])
    check(bed, 6, [(1, 62, 1), (2, 63, 1), (0, 0, 1)], None, padded=5)


@pytest.mark.parametrize("count", [30] if INTERPRETED else [130, 600])
def test_many_that_decode(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """More than one launch has entries for, with parts as large as they get."""
    if INTERPRETED:
        monkeypatch.setattr(decoding, "AT_ONCE", 25)
    rng = random.Random(1)
    bed = Bed([rng.randrange(1, 40) for _ in range(count)], None, 1, 16, DTYPES[0])
    parts = [(index, 0, 1) for index in range(count)]
    rng.shuffle(parts)
    check(bed, 2, parts, None)


@pages
def test_decoding_in_the_other_precisions(page: int | None) -> None:
    for dtype in DTYPES[:-1]:
        bed = Bed(LENGTHS, page, 2, 64, dtype)
        check(bed, 8, [(index, length - 1, 1) for index, length in enumerate(LENGTHS)], None)


@some_dtypes
@heads
@pages
@windows
def test_prompts_beside_those_that_decode(
    dtype: torch.dtype, heads: tuple[int, int, int], page: int | None, window: int | None
) -> None:
    kv_heads, group, width = heads
    bed = Bed(LENGTHS, page, kv_heads, width, dtype)
    last = len(LENGTHS) - 1
    parts = [
        (1, 0, 63),
        (last, LENGTHS[last] - 37, 37),
        (0, 0, 1),
        (2, 30, 2),
        (2, 10, 1),
    ]
    check(bed, kv_heads * group, parts, window)


@pytest.mark.parametrize("page", [None, 16])
@pytest.mark.parametrize("most", [1, 20, 63])
def test_long_prompts_are_attended_in_pieces(
    page: int | None, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that what is taken beside the workspace has a bound."""
    monkeypatch.setattr(tables, "_MOST_QUERIES", most)
    asked: list[int] = []
    flash = prompts._flash

    def watched(queries: Tensor, *rest: Any, **options: Any) -> Any:
        asked.append(len(queries))
        return flash(queries, *rest, **options)

    monkeypatch.setattr(prompts, "_flash", watched)
    bed, last = Bed(LENGTHS, page, 2, 64, DTYPES[-1]), len(LENGTHS) - 1
    parts = [(1, 0, 63), (0, 0, 1), (last, LENGTHS[last] - 37, 37), (2, 10, 2)]
    for window in (None, 40):
        check(bed, 4, parts, window)
    assert max(asked) <= most


@some_dtypes
@heads
@windows
def test_captured_prompts_are_launched_ones(
    dtype: torch.dtype, heads: tuple[int, int, int], window: int | None
) -> None:
    """Bit for bit, also for other sequences than those met when the step was captured."""
    kv_heads, group, width = heads
    bed, last = Bed(LENGTHS, None, kv_heads, width, dtype), len(LENGTHS) - 1
    parts = [(1, 0, 63), (0, 0, 1), (last, LENGTHS[last] - 30, 30), (2, 63, 1)]
    others = [(2, 63, 1), (1, 60, 1), (0, 0, 1), (last, LENGTHS[last] - 64, 64), (1, 5, 2)]
    (_, segments), rows = laid_out(bed, parts), 104
    shape = StepShape(rows, 0, 64, max(LENGTHS))
    count = kv_heads * group
    dims = Dims(count * width, count, kv_heads, width, 0, (window,), dtype)
    queries = numbers(9, rows, count + 2, width, dtype=dtype)[:, :count]
    out, temp = torch.empty_like(queries), ops.temp(room(), dims, shape)

    def work(segments: Sequence[Segment] = segments) -> None:
        plan = ops.plan_attention(KvPlanes((bed.planes,)), [window], segments, temp)
        plan.run(0, queries, out)

    program = ops.trace(work, shape)
    assert program is not None
    for step in (parts, others, parts):
        _, those = laid_out(bed, step)
        assert ops.key(shape, those) == ops.key(shape, segments)
        found = []
        for run in (lambda those=those: program.run(rows, those), lambda those=those: work(those)):
            out.fill_(float("nan"))
            run()
            found.append(out[: those[-1].first + those[-1].count].clone())
        assert torch.equal(*found)
        for one, (sequence, start, many) in zip(those, step, strict=True):
            mine = slice(one.first, one.first + many)
            close(found[0][mine], bed.wanted(queries[mine], sequence, start, window))


def test_which_steps_are_captured() -> None:
    """Not long prompts, nor such as lie in pages, nor the logits of prompts."""
    one = [Segment(0, 2, 0, KvTable((0,), 64))]
    assert ops.key(StepShape(1024, 0, 1024, 4096), one) is not None
    assert ops.key(StepShape(1024, 0, 1024, 4096), ()) is None
    assert ops.key(StepShape(1152, 0, 2, 4096), one) is None
    assert ops.key(StepShape(64, 0, 8, 4096, True), one) is None
    for segments in (one, ()):
        assert ops.key(StepShape(2048, 0, 1, 4096, True), segments) is not None


def test_a_graph_that_finds_no_memory_is_done_without(monkeypatch: pytest.MonkeyPatch) -> None:
    reasons = [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("CUDA: out of memory")]

    def full(work: object) -> Any:
        raise reasons[-1]

    monkeypatch.setattr(ops._recorder, "capture", full)
    shape = StepShape(1, 0, 1, 1)
    for _ in range(2):
        assert ops.trace(lambda: None, shape) is None
        assert ops._tables is None
        reasons.pop()
    reasons.append(RuntimeError("an illegal memory access was encountered"))
    with pytest.raises(RuntimeError, match="illegal"):
        ops.trace(lambda: None, shape)
