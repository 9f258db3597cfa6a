"""Models by their shape: what they weigh, what they keep, and how they can be divided."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from ellm.core.errors import ConfigError, ModelError, ModelNotFound
from ellm.sim.anatomy.cells.attention import Attention
from ellm.sim.anatomy.cells.experts import Experts
from ellm.sim.anatomy.cells.mlp import Mlp
from ellm.sim.anatomy.formats import Formats
from ellm.sim.anatomy.shapes import find_transformer, known_shapes
from ellm.sim.anatomy.shard import Product
from ellm.sim.parallel.footprint import Footprint
from ellm.sim.parallel.handover import Handover, Side, handover
from ellm.sim.parallel.plan import CellPlan, Plan, uniform
from ellm.sim.parallel.stages import stage_blocks

# Parameters in thousands of millions, as their makers say.
PUBLISHED = {
    "llama-2-7b": 6.74,
    "llama-3.2-1b": 1.236,
    "llama-3.2-3b": 3.213,
    "qwen2.5-1.5b": 1.544,
    "qwen2.5-3b": 3.086,
    "qwen2.5-14b": 14.77,
    "llama-3.1-8b": 8.03,
    "llama-3.1-70b": 70.6,
    "llama-3.1-405b": 405.9,
    "mixtral-8x7b": 46.7,
    "mixtral-8x22b": 140.6,
    "mistral-large-2407": 122.6,
    "qwen3-30b-a3b": 30.5,
    "qwen3-235b-a22b": 235.1,
    "qwen3-next-80b-a3b": 79.6,
    "gemma-3-27b": 27.0,
    "deepseek-v3": 671.0,
    "kimi-k2": 1026.0,
    "opt-13b": 12.85,
    "yi-34b-200k": 34.39,
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_known_shapes_weigh_what_is_published(name: str) -> None:
    assert find_transformer(name).parameters / 1e9 == pytest.approx(PUBLISHED[name], rel=0.002)


def test_every_known_shape_can_be_read() -> None:
    for name in known_shapes():
        transformer = find_transformer(name)
        assert Footprint.of(transformer, uniform(transformer), Formats()).token_bytes > 0


def test_a_cache_is_as_wide_as_published() -> None:
    kv = {name: find_transformer(name).layers(2) for name in ("llama-3-8b-262k", "deepseek-v3")}
    assert sum(one.token_bytes for one in kv["llama-3-8b-262k"]) == 128 * 1024
    # 576 numbers a layer (DeepSeek-V2, table 1).
    assert sum(one.token_bytes for one in kv["deepseek-v3"]) == 61 * 576 * 2


def test_hybrids_have_caches_where_they_attend_only() -> None:
    mixed = find_transformer("qwen3-next-80b-a3b")
    assert len(mixed.layers(2)) == 12
    assert Footprint.of(mixed, uniform(mixed), Formats()).state_bytes > 36 * 32 * 128 * 128
    windows = [layer.window for layer in find_transformer("gemma-3-27b").layers(2)]
    assert windows[:6] == [1024] * 5 + [None]


@given(st.sampled_from([1, 2, 4, 8]), st.sampled_from(sorted(PUBLISHED)))
def test_dividing_keeps_every_parameter(ways: int, name: str) -> None:
    assume(ways < 8 or name != "qwen2.5-1.5b")  # it has twelve heads
    transformer = find_transformer(name)
    one = Footprint.of(transformer, uniform(transformer), Formats()).weight_bytes
    each = Footprint.of(transformer, uniform(transformer, tensor=ways), Formats()).weight_bytes
    # Norms, positions, latent projections and whole key-value heads are kept by all.
    assert one <= ways * each <= 1.1 * one


@given(st.integers(1, 126), st.integers(1, 16))
def test_stages_have_all_blocks_in_order(blocks: int, stages: int) -> None:
    ranges = stage_blocks(blocks, stages)
    assert [first for first, _ in ranges[1:]] == [last for _, last in ranges[:-1]]
    assert (ranges[0][0], ranges[-1][1], len(ranges)) == (0, blocks, stages)
    sizes = [last - first for first, last in ranges]
    assert max(sizes) - min(sizes) <= 1
    assert sizes[-1] == min(sizes)


def test_key_value_heads_are_kept_twice_where_there_are_too_few() -> None:
    attention = Attention(hidden=64, heads=8, kv_heads=2, head_dim=8)
    shards = {ways: attention.splits(ways)[0].shard for ways in (1, 2, 4, 8)}
    heads = {ways: shard.heads for ways, shard in shards.items()}
    assert {ways: (h.queries, h.kv_heads) for ways, h in heads.items() if h} == {
        1: (8, 2),
        2: (4, 1),
        4: (2, 1),
        8: (1, 1),
    }
    assert attention.splits(3) == ()


def test_experts_are_read_as_tokens_meet_them() -> None:
    product = Product(10, 10, held=8, used=2.0)
    assert product.read(1) == pytest.approx(200)
    assert product.read(2) == pytest.approx(800 * (1 - 0.75**2))
    assert product.read(1000) == pytest.approx(800)
    assert product.flops(3) == 3 * 2 * 200


def test_experts_divided_whole_do_the_same_work_as_sliced() -> None:
    experts = Experts(hidden=64, count=8, chosen=2, filters=32, shared=16)
    sliced, whole = experts.splits(4)
    assert (sliced.name, whole.name) == ("tensor", "expert")
    assert not sliced.scatters
    assert whole.scatters
    flops = [sum(p.flops(100) for p in s.shard.products[1:3]) for s in (sliced, whole)]
    assert flops[0] == pytest.approx(flops[1])


def test_plans_are_written_as_people_say_them() -> None:
    mixtral = find_transformer("mixtral-8x7b")
    assert uniform(mixtral, tensor=8).describe(mixtral) == "TP8"
    assert uniform(mixtral, 2, 2, 4).describe(mixtral) == "DP2 x PP2 x TP4"
    hybrid = Plan(1, 1, 8, (CellPlan(8), CellPlan(1, "expert")))
    assert hybrid.describe(mixtral) == "attention 8xTP1, experts EP8"
    assert hybrid.ranks(mixtral) == 8


@pytest.mark.parametrize(
    ("sizes", "word"),
    [((0, 1, 1), "data"), ((1, 33, 1), "32 layers"), ((1, 1, 3), "divisor"), ((1, 1, 0), "tensor")],
)
def test_impossible_sizes_are_named(sizes: tuple[int, int, int], word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        uniform(find_transformer("mixtral-8x7b"), *sizes)


@pytest.mark.parametrize(
    ("one", "other", "travels"),
    [
        (Side(1, 8), Side(1, 8), ("all_reduce", None)),
        (Side(1, 1), Side(1, 1), (None, None)),
        (Side(8, 1), Side(1, 8), (None, "all_gather")),
        (Side(1, 8), Side(8, 1), ("reduce_scatter", None)),
        (Side(2, 4), Side(1, 8), ("reduce_scatter", "all_gather")),
        (Side(1, 8), Side(1, 8, spread=True), ("reduce_scatter", None)),
        (Side(1, 8, spread=True), Side(1, 8), (None, "all_gather")),
        (Side(8, 1), Side(1, 8, spread=True), (None, None)),
    ],
)
def test_what_travels_between_cells(
    one: Side, other: Side, travels: tuple[str | None, str | None]
) -> None:
    assert handover(one, other) == Handover(*travels)


def test_four_bits_have_scales() -> None:
    llama = find_transformer("llama-3.1-8b")
    wide, narrow = (
        Footprint.of(llama, uniform(llama), Formats(weights)).weight_bytes
        for weights in ("bf16", "int4")
    )
    tables = llama.table_parameters() * 2
    assert (narrow - tables) / (wide - tables) == pytest.approx(4.25 / 16, rel=0.001)
    half = Footprint.of(llama, uniform(llama), Formats(kv="fp8")).token_bytes
    assert half == 64 * 1024


def test_unknown_words_are_answered_with_known_ones(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match=r"llama-3\.1-70b"):
        find_transformer("llama-3-70b")
    with pytest.raises(ModelNotFound, match=r"mean llama-3\.2-3b, .*llama-3\.1-8b"):
        find_transformer("llama")
    with pytest.raises(ConfigError, match="int4"):
        Formats("int5")
    (tmp_path / "config.json").write_text(json.dumps({"hidden_size": 64}))
    with pytest.raises(ModelError, match="num_hidden_layers"):
        find_transformer(str(tmp_path))
    (tmp_path / "own.json").write_text("{}")
    with pytest.raises(ModelError, match=r"own\.json has no 'hidden_size'"):
        find_transformer(str(tmp_path / "own.json"))
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ModelError, match="not JSON"):
        find_transformer(str(tmp_path / "config.json"))


def test_filters_that_do_not_divide_are_rounded_up() -> None:
    shard = Mlp(hidden=8, filters=10).splits(4)[0].shard
    assert shard.products == (Product(8, 6), Product(3, 8))
