"""Tokens drawn by the CUDA backend, against whole numbers in Python and against the reference.

Not collected by itself: see kernel_conformance.py.
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from interpreted import DEVICE, INTERPRETED, stand_in
from textbook_draws import Change, How, changes_of, hows, odd, textbook
from torch import Tensor

from ellm.kernels.cuda import draw
from ellm.kernels.cuda.ops import CudaOps
from ellm.kernels.logits import DEEPEST, OCTAVE
from ellm.kernels.ops import Changes
from ellm.kernels.reference import ReferenceOps
from ellm.runtime.workspace import Workspace, WorkspaceCounter

ROOM = (32 if INTERPRETED else 1024) << 20
# A device compiles for each dtype, and for each kind of width.
DTYPES = [torch.float16, torch.float32] if INTERPRETED else [torch.bfloat16]
WIDTHS = st.sampled_from([1, 37, 256, 4000])
if INTERPRETED:
    WIDTHS = st.one_of(st.integers(1, 300), st.integers(1000, 4000))
BATCHES = [(5, 1500)]
if not INTERPRETED:
    BATCHES += [(1, 128_256), (256, 128_256), (7, 50_257), (64, 262_144)]
_memory = torch.empty(ROOM, dtype=torch.uint8, device=DEVICE)
pytestmark = pytest.mark.filterwarnings(
    "ignore:overflow encountered:RuntimeWarning",
    "ignore:invalid value encountered:RuntimeWarning",
    "ignore:divide by zero encountered:RuntimeWarning",
)


@pytest.fixture(scope="module", autouse=True)
def device() -> object:
    with pytest.MonkeyPatch.context() as patch:
        stand_in(patch)
        yield


def room() -> Workspace:
    """Memory of which nothing was written."""
    _memory.fill_(0xFF)
    return Workspace(-(-_memory.data_ptr() // 64) * 64, ROOM - 64, DEVICE)


def drawn(x: Tensor, how: Sequence[How], changed: Sequence[Change]) -> list[int]:
    ops, rows, plain = CudaOps(), len(x), changes_of(changed)
    changes = Changes(plain.starts, plain.ids, plain.values.to(DEVICE))
    out = torch.full((rows,), -7, device=DEVICE)
    told = torch.tensor(how, dtype=torch.float64)
    ops.sample(x, told, changes, out, ops.logit_temp(room(), *x.shape, 0))
    return out.tolist()


@given(st.data(), st.integers(1, 4), st.integers(0, 2**20), st.sampled_from(DTYPES))
@settings(max_examples=25 if INTERPRETED else 300, deadline=None)
def test_the_token_is_that_of_whole_numbers(
    data: st.DataObject, rows: int, seed: int, dtype: torch.dtype
) -> None:
    """Rows of one part and of several; ties, broken numbers, changed logits."""
    width = data.draw(WIDTHS)
    generator = torch.Generator().manual_seed(seed)
    spread = data.draw(st.sampled_from([0.01, 3, 30]))
    x = torch.randn(rows, width + 3, generator=generator) * spread
    if data.draw(st.booleans()):
        x = x.round()
    places = st.tuples(st.integers(0, rows - 1), st.integers(0, width - 1))
    for (row, place), value in data.draw(st.dictionaries(places, odd, max_size=6)).items():
        x[row, place] = value
    x = x.to(DEVICE, dtype)[:, :width]
    how = [data.draw(hows) for _ in range(rows)]
    change = st.dictionaries(
        st.integers(0, width - 1), st.one_of(odd, st.floats(-5, 5)), max_size=4
    )
    changed = [data.draw(change) for _ in range(rows)]
    found = drawn(x, how, changed)
    for row, line in enumerate(x.float().tolist()):
        for place, value in changed[row].items():
            line[place] = value
        assert found[row] == textbook(line, how[row]), (row, how[row])


@pytest.mark.parametrize("kind", ["rising", "equal", "random", "far", "nothing"])
def test_long_rows(kind: str) -> None:
    width = 3_007 if INTERPRETED else 20_011
    generator = torch.Generator().manual_seed(1)
    line = {
        "rising": torch.linspace(-9, 9, width),
        "equal": torch.full((width,), 2.5),
        "random": torch.randn(width, generator=generator) * 3,
        "far": torch.linspace(-1e6, 0, width).exp(),
        "nothing": torch.full((width,), float("nan")),
    }[kind]
    how: list[How] = [
        (0.8, deepest, top_k, top_p, point)
        for deepest in (DEEPEST, 3 * OCTAVE)
        for top_k in (0, 50, 2000)
        for top_p in (0.3, 0.95, 1.0)
        for point in (0.0, 1 - 2**-24)
    ]
    if INTERPRETED:
        how = how[::5]
    x = line.to(DEVICE).expand(len(how), -1)
    assert drawn(x, how, [{}] * len(how)) == [textbook(line.tolist(), one) for one in how]


@pytest.mark.parametrize(("rows", "width"), BATCHES)
@pytest.mark.parametrize(
    ("top_k", "top_p", "changes"),
    [(0, 1.0, False), (40, 0.9, False), (40, 1.0, True), (0, 0.9, True)],
)
def test_whole_batches(rows: int, width: int, top_k: int, top_p: float, changes: bool) -> None:
    """As the reference draws on the CPU; rows whose logits are changed go in several rounds."""
    generator = torch.Generator().manual_seed(rows)
    x = (torch.randn(rows, width, generator=generator) * 2).to(torch.float16)
    points = torch.rand(rows, generator=generator, dtype=torch.float64).tolist()
    how = [(0.9 if row % 4 else 0.0, DEEPEST, top_k, top_p, points[row]) for row in range(rows)]
    ids = torch.randint(0, width, (rows, 300), generator=generator).tolist()
    changed = [
        dict.fromkeys(own if changes and row % 3 else (), 1.5) for row, own in enumerate(ids)
    ]
    told, plain = torch.tensor(how, dtype=torch.float64), changes_of(changed)
    reference, wanted = ReferenceOps(), torch.full((rows,), -1)
    memory = torch.empty(64 << 20, dtype=torch.uint8)
    scratch = Workspace(-(-memory.data_ptr() // 64) * 64, (64 << 20) - 64)
    reference.sample(x, told, plain, wanted, reference.logit_temp(scratch, rows, width, 0))
    with pytest.MonkeyPatch.context() as patch:
        if INTERPRETED:
            patch.setattr(draw, "_CHANGED", 2 * width)
        assert drawn(x.to(DEVICE), how, changed) == wanted.tolist()


@given(st.integers(1, 300), st.integers(1, 300_000), st.integers(0, 3), st.integers(0, 5000))
@settings(max_examples=50 if INTERPRETED else 10)
def test_more_takes_no_less_room(rows: int, width: int, more: int, wider: int) -> None:
    """For more rows, and for wider ones."""

    def taken(rows: int, width: int) -> int:
        counter = WorkspaceCounter()
        CudaOps().logit_temp(counter, rows, width, 0)
        return counter.peak

    assert taken(rows, width) <= taken(rows + more, width) <= taken(rows + more, width + wider)
