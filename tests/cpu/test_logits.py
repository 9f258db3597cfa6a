"""Each backend's draws against whole numbers in Python, and its scores against float64."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from backends import BACKENDS, computes
from device_half import aligned
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from textbook_draws import Change, How, changes_of, hows, odd, textbook
from torch import Tensor

from ellm.kernels.logits import DEEPEST
from ellm.runtime.workspace import Workspace

pytestmark = pytest.mark.parametrize("name", BACKENDS)
ROOM = aligned(1 << 24)
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def sample(name: str, x: Tensor, hows: Sequence[How], rows: Sequence[Change]) -> list[int]:
    ops, workspace = BACKENDS[name], Workspace(ROOM.data_ptr(), len(ROOM))
    how, out = torch.tensor(hows, dtype=torch.float64), torch.full((len(x),), -7)
    ROOM.fill_(0xFF)
    ops.sample(x, how, changes_of(rows), out, ops.logit_temp(workspace, *x.shape, 0))
    return out.tolist()


dtypes = st.sampled_from(DTYPES)


@given(st.data(), st.integers(1, 5), st.integers(1, 400), dtypes, st.integers(0, 2**20))
@settings(max_examples=150)
def test_the_token_is_that_of_whole_numbers(
    name: str, data: st.DataObject, rows: int, width: int, dtype: torch.dtype, seed: int
) -> None:
    """Any shape, stride, dtype and parameters; also ties, broken numbers, changed logits."""
    assume(computes(name, dtype))
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, width + 3, generator=generator) * data.draw(
        st.sampled_from([0.01, 3, 30])
    )
    if data.draw(st.booleans()):
        x = x.round()
    places = st.tuples(st.integers(0, rows - 1), st.integers(0, width - 1))
    for (row, place), value in data.draw(st.dictionaries(places, odd, max_size=6)).items():
        x[row, place] = value
    x = x.to(dtype)[:, :width]
    how = [data.draw(hows) for _ in range(rows)]
    change = st.dictionaries(
        st.integers(0, width - 1), st.one_of(odd, st.floats(-5, 5)), max_size=4
    )
    changed = [data.draw(change) for _ in range(rows)]
    found = sample(name, x, how, changed)
    for row, line in enumerate(x.float().tolist()):
        for place, value in changed[row].items():
            line[place] = value
        assert found[row] == textbook(line, how[row]), (row, how[row])


@pytest.mark.parametrize("order", ["rising", "falling", "equal", "random", "far"])
def test_long_rows(name: str, order: str) -> None:
    width = 9_007
    line = {
        "rising": torch.linspace(-9, 9, width),
        "falling": torch.linspace(9, -9, width),
        "equal": torch.full((width,), 2.5),
        "random": torch.randn(width, generator=torch.Generator().manual_seed(1)) * 3,
        "far": torch.linspace(-1e6, 0, width).exp(),
    }[order]
    how: list[How] = [
        (0.8, DEEPEST, top_k, top_p, point)
        for top_k in (0, 50, 3000)
        for top_p in (0.3, 0.95, 1.0)
        for point in (0.0, 0.7, 1 - 2**-24)
    ]
    found = sample(name, line.expand(len(how), -1), how, [{}] * len(how))
    assert found == [textbook(line.tolist(), one) for one in how]


@given(st.integers(0, 2**20), st.integers(0, 2**24 - 1), st.floats(0.3, 3.0))
def test_a_draw_inverts_the_cumulative_distribution(
    name: str, seed: int, place: int, temperature: float
) -> None:
    line = torch.randn(300, generator=torch.Generator().manual_seed(seed)) * 3
    point = place * 2.0**-24
    token = sample(name, line[None], [(temperature, DEEPEST, 0, 1.0, point)], [{}])[0]
    reached = (line.double() / temperature).softmax(-1).cumsum(-1)
    assert point <= reached[token] + 1e-6
    assert token == 0 or point >= reached[token - 1] - 1e-6


def test_frequencies_are_probabilities(name: str) -> None:
    line, draws = torch.randn(40, generator=torch.Generator().manual_seed(3)), 4000
    points = (
        torch.randint(0, 2**24, (draws,), generator=torch.Generator().manual_seed(4)) * 2.0**-24
    )
    how: list[How] = [(0.7, DEEPEST, 12, 0.9, point) for point in points.tolist()]
    counts = torch.bincount(
        torch.tensor(sample(name, line.expand(draws, -1), how, [{}] * draws)), minlength=40
    )
    best = (line.double() / 0.7).sort(descending=True)
    shares = best.values[:12].softmax(-1)
    kept = int((shares.cumsum(-1) < 0.9).sum()) + 1
    wanted = torch.zeros(40, dtype=torch.float64)
    wanted[best.indices[:kept]] = shares[:kept] / shares[:kept].sum() * draws
    assert not counts[wanted == 0].any()
    chi2 = float(((counts - wanted)[wanted > 0] ** 2 / wanted[wanted > 0]).sum())
    assert chi2 < kept + 5 * math.sqrt(2 * kept)


@given(st.data(), st.integers(1, 4), st.integers(1, 300), dtypes, st.integers(0, 2**20))
def test_scores_are_log_softmax(
    name: str, data: st.DataObject, rows: int, width: int, dtype: torch.dtype, seed: int
) -> None:
    assume(computes(name, dtype))
    x = torch.randn(rows, width + 1, generator=torch.Generator().manual_seed(seed)) * 4
    x = (x.round() if data.draw(st.booleans()) else x).to(dtype)[:, :width]
    top = data.draw(st.integers(0, min(width, 40)))
    targets = [data.draw(st.integers(-1, width - 1)) for _ in range(rows)]
    values, ids = torch.full((rows, 1 + top), 7.0), torch.full((rows, 1 + top), -7)
    ops, workspace = BACKENDS[name], Workspace(ROOM.data_ptr(), len(ROOM))
    temp = ops.logit_temp(workspace, rows, width, top)
    ops.score(x, torch.tensor(targets), values, ids, temp)
    for line, target, value, who in zip(x.double(), targets, values, ids.tolist(), strict=True):
        if target < 0:
            assert value.eq(7).all()
            assert set(who) == {-7}
            continue
        logs = line.log_softmax(-1)
        best = logs.topk(top).values
        wanted = torch.cat([logs[target, None], best])
        torch.testing.assert_close(value.double(), wanted, atol=1e-5, rtol=1e-6)
        assert who[0] == int((line > line[target]).sum()) + 1
        assert len(set(who[1:])) == top
        torch.testing.assert_close(logs[who[1:]], best, atol=0, rtol=0)


@pytest.mark.parametrize(
    ("line", "target", "report"),
    [
        ([math.nan, -math.inf], 0, (0.0, 1, 0, 0.0)),
        ([-math.inf, math.nan], 1, (-math.inf, 2, 0, 0.0)),
        ([math.nan, 5.0], 1, (0.0, 1, 1, 0.0)),
        ([1.0, math.inf], 1, (0.0, 1, 1, 0.0)),
        ([3e38, 1.0], 0, (0.0, 1, 0, 0.0)),
    ],
)
def test_broken_rows_have_scores(
    name: str, line: list[float], target: int, report: tuple[float, int, int, float]
) -> None:
    ops, workspace = BACKENDS[name], Workspace(ROOM.data_ptr(), len(ROOM))
    values, ids = torch.empty(1, 2), torch.empty(1, 2, dtype=torch.int64)
    temp = ops.logit_temp(workspace, 1, 2, 1)
    ops.score(torch.tensor([line]), torch.tensor([target]), values, ids, temp)
    assert (values[0, 0].item(), *ids[0].tolist(), values[0, 1].item()) == report
