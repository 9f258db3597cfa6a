"""Sequences and layers that go below a real device and come back, beside kernels that run."""

from __future__ import annotations

import random
import sys
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "cpu"))

from engine_conformance import ARGS, Answers, answers, assert_like, truth  # noqa: F401

from ellm.core.config import KvLayout
from ellm.core.plan import StepPlan
from ellm.core.units import MIB
from ellm.engine import assembly
from ellm.llm.build import build


@pytest.mark.parametrize("layout", list(KvLayout))
def test_words_survive_parking_below(
    layout: KvLayout,
    truth: Answers,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    args = replace(ARGS, kv_layout=layout, enable_prefix_caching=True)
    below = replace(args, kv_offloading_size=64 * MIB, kv_offloading_dir=str(tmp_path))
    built = build(below)
    monkeypatch.setattr(built.engine._scheduler, "_fetching_pays", lambda tokens, seconds: True)
    rng = random.Random(5)

    def yield_some() -> None:
        """Now and then, the latest arrivals give up their memory, right behind a step of theirs.

        Some are taken back while they leave, others have left.
        """
        while rng.random() < 0.4:
            built.engine.yield_memory()
            if rng.random() < 0.5:
                built.engine._memory.kv.wait()

    assert_like(answers(built.engine, between=yield_some), truth)
    tiers = built.engine._memory.tiers
    assert tiers is not None
    assert built.engine.stats.elastic.swapped > 10
    assert tiers.stats.loads > 2
    assert (tiers.stats.store_failures, tiers.stats.load_failures) == (0, 0)
    built.engine.release_idle()
    assert built.engine.snapshot().owners["kv"] == 0
    built.engine.close()


def test_words_survive_layer_by_layer(
    truth: Answers,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Prompts that keep few layers in memory, and some that decode so: a group is one layer."""
    monkeypatch.setattr(assembly, "most_pinned", lambda token_bytes, layered: 6 * 2 * MIB)
    below = {"kv_offloading_size": 256 * MIB, "kv_offloading_dir": str(tmp_path)}
    built = build(replace(ARGS, max_num_seqs=12, **below))
    kv, scheduler = built.engine._memory.kv, built.engine._scheduler
    assert kv._store.groups == 6
    rng = random.Random(5)
    monkeypatch.setattr(kv, "could_hold", lambda tokens, soon=True: rng.random() < 0.3)
    monkeypatch.setattr(kv.room, "spare", lambda price: rng.randrange(3, 8))
    monkeypatch.setattr(built.engine._memory.tiers, "store_seconds", lambda size: 0.0)
    steps = 0
    make, aside = kv.ferry, scheduler._set_layered_aside

    def counted(plan: StepPlan) -> object:
        nonlocal steps
        ferry = make(plan)
        steps += ferry is not None
        return ferry

    monkeypatch.setattr(kv, "ferry", counted)
    monkeypatch.setattr(
        scheduler, "_set_layered_aside", lambda: aside() if rng.random() < 0.5 else None
    )
    assert_like(answers(built.engine), truth)
    assert steps > 10
    built.engine.close()
