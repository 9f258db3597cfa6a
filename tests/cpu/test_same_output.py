"""However memory is cut and shared out, the same requests get the same words.

Sixty-four requests, greedy, on the bundled model: either layout, any chunk size, any batch size,
prompts in one piece or in many, with preemptions, with shared prefixes.  In bfloat16, where the
least difference would show, because native kernels make every number in one order; in float32
where the package was built without them.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from ellm.core.config import KvLayout
from ellm.core.executor import Executor
from ellm.core.plan import StepPlan
from ellm.core.request import Request
from ellm.core.sampling import SamplingParams
from ellm.core.units import KIB, MIB
from ellm.engine.engine import Engine
from ellm.kernels.cpu.library import library
from ellm.llm.args import EngineArgs
from ellm.llm.build import build
from ellm.runtime.runner import Runner

BASE = EngineArgs(
    model="ellm-base",
    dtype="float32" if library() is None else "bfloat16",
    memory=256 * MIB,
    max_model_len=512,
    max_num_seqs=64,
    max_num_batched_tokens=2048,
)

Answers = dict[str, list[int]]
either_way = pytest.mark.parametrize("ahead", [False, True], ids=["in step", "ahead"])


def requests() -> list[Request]:
    rng = random.Random(7)
    params = SamplingParams(max_tokens=24, temperature=0, ignore_eos=True)
    lengths = [rng.randrange(1, 160) for _ in range(64)]
    common = [rng.randrange(100, 2000) for _ in range(80)]
    prompts = [
        (common[: n // 2] if i % 2 else []) + [rng.randrange(100, 2000) for _ in range(n)]
        for i, n in enumerate(lengths)
    ]
    return [
        Request(request_id=f"r{i}", prompt=tuple(p), params=params) for i, p in enumerate(prompts)
    ]


def answers(engine: Engine, between_steps: Callable[[], None] = lambda: None) -> Answers:
    out: Answers = {}
    for request in requests():
        engine.submit(request)
    while engine.has_work:
        between_steps()
        for news in engine.step():
            assert news.token is not None
            out.setdefault(news.request_id, []).append(news.token)
    engine.check()
    return out


def flown(ahead: bool) -> Callable[[Executor], Executor]:
    """Has the runner be launched `ahead`, as on a GPU."""

    def around(runner: Executor) -> Executor:
        assert isinstance(runner, Runner)
        runner.ahead = ahead
        return runner

    return around


@pytest.fixture(scope="module")
def truth() -> Answers:
    built = build(BASE)
    try:
        return answers(built.engine)
    finally:
        built.engine.close()


@pytest.mark.parametrize(
    "change",
    [
        {"kv_layout": KvLayout.PAGED},
        {"kv_layout": KvLayout.PAGED, "block_size": 3, "chunk_bytes": 16 * KIB},
        {"chunk_bytes": 4 * KIB},
        {"chunk_bytes": 2 * MIB},
        {"max_num_batched_tokens": 48},
        {"max_num_seqs": 5},
        {"enable_prefix_caching": True},
        {"enable_prefix_caching": True, "kv_layout": KvLayout.PAGED},
    ],
    ids=lambda change: " ".join(f"{k}={getattr(v, 'value', v)}" for k, v in change.items()),
)
def test_the_same_words(change: dict[str, object], truth: Answers) -> None:
    built = build(replace(BASE, **change))  # type: ignore[arg-type]
    assert answers(built.engine) == truth
    built.engine.close()


@pytest.mark.parametrize("change", [{}, {"max_num_batched_tokens": 48, "max_num_seqs": 9}])
def test_the_same_words_ahead(change: dict[str, int], truth: Answers) -> None:
    built = build(replace(BASE, **change), around=flown(ahead=True))  # type: ignore[arg-type]
    assert answers(built.engine) == truth
    built.engine.close()


def test_the_same_draws_ahead() -> None:
    """Some with penalties, which the next step has to wait for, and some with log-probabilities."""
    found = []
    for ahead in (False, True):
        built = build(BASE, around=flown(ahead))
        for number in range(24):
            params = SamplingParams(
                max_tokens=6 + number % 5,
                temperature=0.8,
                seed=number,
                n=1 + number % 2,
                presence_penalty=0.4 if number % 8 == 3 else 0.0,
                min_tokens=3 * (number % 3),
                logprobs=2 if number % 4 == 1 else None,
                prompt_logprobs=1 if number % 6 == 1 else None,
            )
            ends = frozenset(range(0, 2000, 7))
            prompt = tuple(range(100 + number, 120 + 2 * number))
            built.engine.submit(
                Request(request_id=f"r{number}", prompt=prompt, params=params, end_token_ids=ends)
            )
        news = []
        while built.engine.has_work:
            news += built.engine.step()
        built.engine.close()
        found.append(sorted(news, key=lambda one: (one.request_id, one.index)))
    assert found[0] == found[1]


@either_way
@pytest.mark.parametrize("layout", list(KvLayout))
def test_the_same_words_after_preemptions(layout: KvLayout, ahead: bool, truth: Answers) -> None:
    args = replace(BASE, kv_layout=layout, chunk_bytes=4 * KIB)
    built = build(args, around=flown(ahead))
    rng = random.Random(5)

    def squeeze() -> None:
        """Now and then, change the budget: room for one sequence beside the weights, or a few."""
        if rng.random() < 0.3:
            pool = built.engine._memory.pool
            pool.resize(pool.held("weights") + rng.randrange(2500, 9000))

    assert answers(built.engine, squeeze) == truth
    assert built.engine.stats.preemptions > 20
    built.engine.close()


@pytest.mark.parametrize("layout", list(KvLayout))
@either_way
def test_the_same_words_after_parking_below(
    layout: KvLayout, ahead: bool, truth: Answers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    args = replace(BASE, kv_layout=layout, chunk_bytes=4 * KIB, enable_prefix_caching=True)
    below = replace(args, kv_offloading_size=64 * MIB, kv_offloading_dir=str(tmp_path))
    built = build(below, around=flown(ahead))
    monkeypatch.setattr(built.engine._scheduler, "_fetching_pays", lambda tokens, seconds: True)
    rng = random.Random(5)

    def squeeze() -> None:
        if rng.random() < 0.3:
            pool = built.engine._memory.pool
            pool.resize(pool.held("weights") + rng.randrange(2500, 9000))

    assert answers(built.engine, squeeze) == truth
    assert built.engine.stats.elastic.swapped > 20
    tiers = built.engine._memory.tiers
    assert tiers is not None
    assert tiers.stats.loads > 10
    built.engine.release_idle()
    assert built.engine.snapshot().owners["kv"] == 0
    built.engine.close()


@either_way
def test_the_same_words_layer_by_layer(
    ahead: bool, truth: Answers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prompts that keep few layers in memory, and some that decode so."""
    args = replace(BASE, chunk_bytes=4 * KIB, max_num_seqs=12)
    below = replace(args, kv_offloading_size=256 * MIB, kv_offloading_dir=str(tmp_path))
    built = build(below, around=flown(ahead))
    kv, scheduler = built.engine._memory.kv, built.engine._scheduler
    rng = random.Random(5)
    monkeypatch.setattr(kv, "could_hold", lambda tokens, soon=True: rng.random() < 0.3)
    monkeypatch.setattr(kv.room, "spare", lambda price: rng.randrange(20, 60))
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
    assert answers(built.engine) == truth
    assert steps > 15
    built.engine.close()


def shared_memory() -> int:
    """Bytes of shared memory resident in this process, as the kernel counts them."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssShmem:"):
            return int(line.split()[1]) * KIB
    raise AssertionError("no RssShmem in /proc/self/status")


@pytest.mark.parametrize("layout", list(KvLayout))
def test_a_burst_with_aborts_gives_every_byte_back(layout: KvLayout) -> None:
    built = build(replace(BASE, kv_layout=layout))
    engine = built.engine
    before = shared_memory()
    rng = random.Random(3)
    for request in requests():
        engine.submit(request)
    alive = [f"r{i}" for i in range(64)]
    highest = before
    while engine.has_work:
        engine.step()
        highest = max(highest, shared_memory())
        if alive and rng.random() < 0.7:
            engine.abort(alive.pop(rng.randrange(len(alive))))
        engine.check()
    grown = highest - before
    assert grown > 4 * MIB
    released = engine.release_idle()
    memory = engine.snapshot().memory
    assert memory.held.get("kv", 0) == 0
    assert memory.held.get("activations", 0) == 0
    assert memory.free == memory.total - memory.held["weights"]
    assert memory.physical_bytes == memory.held["weights"] * memory.chunk_bytes
    # At least: the kernel counts a page twice while a chunk is mapped in its old place too.
    assert highest - shared_memory() >= released - 2 * MIB
    assert shared_memory() == pytest.approx(before, abs=MIB)
    engine.close()
