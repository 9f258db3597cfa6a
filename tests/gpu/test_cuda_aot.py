"""Modules compiled ahead of time, as captured graphs on a real device."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).parents[1] / "cpu"))

from test_aot import BRANCHY, Counter

from ellm import aot


@pytest.mark.parametrize("lanes", [None, 1, 4])
@pytest.mark.parametrize("name", BRANCHY)
@torch.no_grad()
def test_a_graph_answers_as_the_module(name: str, lanes: int | None) -> None:
    module, inputs = BRANCHY[name]
    module = module.eval().cuda()
    compiled = aot.compile(module, tuple(one.cuda() for one in inputs), lanes=lanes)
    for _ in range(3):
        fresh = tuple(torch.randn_like(one, device="cuda") for one in inputs)
        torch.testing.assert_close(compiled(*fresh), module(*fresh), rtol=1e-3, atol=1e-3)
    report = compiled.report
    if lanes == 1:
        assert report.lanes == 1
    if lanes == 4:
        assert report.lanes == report.streams > 1
    if lanes is None:
        assert set(report.seconds) == {1, report.streams}


@torch.no_grad()
def test_a_graph_changes_the_module_as_often_as_it_is_called() -> None:
    module = Counter().eval().cuda()
    compiled = aot.compile(module, (torch.ones(6, device="cuda"),))
    before = float(module.calls)
    for number in range(1, 4):
        first, _ = compiled(torch.full((6,), 2.0, device="cuda"))
        assert float(module.calls) == before + number
        torch.testing.assert_close(first, torch.full_like(first, 4.0 + before + number))
