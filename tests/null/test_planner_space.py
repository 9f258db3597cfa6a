"""Which plans there are: all that can be, each once, and none that is another in disguise."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product
from math import gcd

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ellm.core.errors import ConfigError
from ellm.planner.heuristic import heuristic
from ellm.planner.space import device_counts, divisors, plans
from ellm.sim.anatomy.cell import Exchange, Split
from ellm.sim.anatomy.cells.attention import Attention
from ellm.sim.anatomy.cells.mlp import Mlp
from ellm.sim.anatomy.shapes import find_transformer
from ellm.sim.anatomy.shard import Product, Shard
from ellm.sim.anatomy.transformer import Transformer
from ellm.sim.parallel.plan import CellPlan, Plan

LLAMA = "llama-3.1-70b"
MODELS = (LLAMA, "mixtral-8x7b", "kimi-k2", "qwen3-next-80b-a3b", "gemma-3-27b", "opt-13b")


def described(model: str, devices: int, per_node: int = 8) -> list[str]:
    transformer = find_transformer(model)
    return [plan.describe(transformer) for plan in plans(transformer, devices, per_node)]


def test_two_devices_have_the_plans_of_the_paper() -> None:
    # APEX counts the first three of a model that does not fit one device (section 3.2).
    assert set(described(LLAMA, 2)) == {
        "TP2",
        "attention 2xTP1, mlp TP2",
        "PP2 x TP1",
        "DP2 x TP1",
        "attention TP2, mlp 2xTP1",
    }


def test_experts_may_be_divided_whole() -> None:
    found = described("mixtral-8x7b", 4)
    assert "attention 4xTP1, experts EP4" in found
    assert "attention TP4, experts 2xEP2" in found


@pytest.mark.parametrize("model", MODELS)
def test_no_plan_is_there_twice(model: str) -> None:
    transformer = find_transformer(model)
    for devices in (1, 2, 4, 8, 16, 24):
        found = list(plans(transformer, devices, 8))
        assert len(set(found)) == len(found)
        # Nor under another name: what devices hold and exchange differs too.
        looks = [look(transformer, plan) for plan in found]
        assert len(set(looks)) == len(looks)


def look(transformer: Transformer, plan: Plan) -> object:
    splits = [plan.split(transformer, place) for place in range(len(plan.cells))]
    assert all(splits), plan
    cells = [
        (cell.copies, split.shard, split.exchanges)
        for cell, split in zip(plan.cells, splits, strict=True)
        if split is not None
    ]
    return (plan.replicas, plan.stages, plan.width, tuple(cells))


@given(st.sampled_from(MODELS), st.sampled_from([1, 2, 3, 4, 6, 8, 16]))
@settings(deadline=None, max_examples=40)
def test_whatever_can_be_is_there_once_common_copies_are_replicas(model: str, devices: int) -> None:
    transformer = find_transformer(model)
    expected = set()
    for replicas in divisors(devices):
        for stages in divisors(devices // replicas):
            width = devices // (replicas * stages)
            if stages <= len(transformer.blocks) and (devices <= 8 or 8 % width in (0, 8)):
                expected |= everything(transformer, replicas, stages, width)
    assert set(plans(transformer, devices, 8)) == expected


def everything(transformer: Transformer, replicas: int, stages: int, width: int) -> set[Plan]:
    """By trying all, and taking a common divisor of all copies out."""
    found = set()
    choices = [
        [(r, s.name) for r in divisors(width) for s in cell.splits(width // r)]
        for cell in transformer.cells
    ]
    for chosen in product(*choices):
        copies = [r for r, _ in chosen]
        kept = {r for r, cell in zip(copies, transformer.cells, strict=True) if cell.remembers}
        pairs = [
            (copies[transformer.cells.index(a)], copies[transformer.cells.index(b)])
            for block in transformer.kinds
            for a, b in [(block[0], block[1]), (block[1], block[0])]
        ]
        if len(kept) > 1 or any(a % b and b % a for a, b in pairs):
            continue
        common = gcd(*copies)
        cells = tuple(CellPlan(r // common, name) for r, name in chosen)
        found.add(Plan(replicas * common, stages, width // common, cells))
    return found


@given(st.sampled_from(MODELS), st.sampled_from([2, 4, 8, 16, 24, 32]))
@settings(deadline=None, max_examples=40)
def test_plans_keep_the_rules(model: str, devices: int) -> None:
    transformer = find_transformer(model)
    for plan in plans(transformer, devices, 8):
        assert plan.devices == devices
        assert plan.stages <= len(transformer.blocks)
        assert devices <= 8 or 8 % plan.width == 0 or plan.width % 8 == 0
        assert gcd(*(cell.copies for cell in plan.cells)) == 1
        pairs = zip(transformer.cells, plan.cells, strict=True)
        assert len({one.copies for cell, one in pairs if cell.remembers}) == 1


def test_stages_need_not_divide_the_layers() -> None:
    assert len(find_transformer("kimi-k2").blocks) == 61
    assert any(plan.stages == 4 for plan in plans(find_transformer("kimi-k2"), 4, 8))
    short = replace(
        find_transformer("llama-3.1-8b"), blocks=find_transformer("llama-3.1-8b").blocks[:3]
    )
    assert max(plan.stages for plan in plans(short, 8, 8)) == 2


def test_devices_are_counted_by_doubling_and_by_nodes() -> None:
    assert device_counts(8, 8) == [1, 2, 4, 8]
    assert device_counts(32, 8) == [1, 2, 4, 8, 16, 24, 32]
    assert device_counts(6, 8) == [1, 2, 4, 6]
    assert device_counts(12, 8) == [1, 2, 4, 8]
    assert device_counts(7, 1) == [1, 2, 3, 4, 5, 6, 7]
    with pytest.raises(ConfigError, match="at least 1, not 0"):
        device_counts(0, 8)


@dataclass(frozen=True)
class Odd:
    """A cell that can be divided by three only, in two ways."""

    name = "odd"
    remembers = False
    tasks = 3

    def splits(self, devices: int) -> tuple[Split, ...]:
        if devices == 1:
            return (Split("whole", Shard((Product(8, 8),))),)
        if devices != 3:
            return ()
        shard = Shard((Product(8, 3),))
        spread = Split("spread", shard, (Exchange("all_to_all", 8),))
        return (Split("sliced", shard), spread)


def test_a_cell_of_ones_own_brings_its_own_plans() -> None:
    blocks = ((Attention(64, 6, 6, 8), Odd()), (Attention(64, 6, 6, 8), Mlp(64, 96)))
    transformer = Transformer("own", 64, 96, blocks, 128)
    found = [plan for plan in plans(transformer, 3, 3) if plan.width == 3]
    odd = transformer.cells.index(Odd())
    assert {plan.cells[odd] for plan in found} == {
        CellPlan(3, "whole"),
        CellPlan(1, "sliced"),
        CellPlan(1, "spread"),
    }


def test_the_usual_plan_has_tensors_in_a_node_and_stages_across() -> None:
    llama = find_transformer(LLAMA)
    assert [heuristic(llama, n, 8) for n in (4, 8, 16)] == [
        Plan(1, 1, 4, (CellPlan(), CellPlan())),
        Plan(1, 1, 8, (CellPlan(), CellPlan())),
        Plan(1, 2, 8, (CellPlan(), CellPlan())),
    ]
    # 40 heads are not divided by 16.
    opt = heuristic(find_transformer("opt-13b"), 16, 16)
    assert opt is not None
    assert (opt.stages, opt.width) == (2, 8)
