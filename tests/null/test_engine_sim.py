"""The engine over accounts: whatever happens to memory, every token comes out as if alone."""

from __future__ import annotations

import random
import zlib
from array import array

import pytest
from faulty import FaultyDriver
from hypothesis import given, settings
from hypothesis import strategies as st

from ellm.core.config import KvLayout, MemoryConfig, SchedulerConfig
from ellm.core.errors import BudgetError, ContextOverflow, QueueFull
from ellm.core.request import Request
from ellm.core.sampling import SamplingParams
from ellm.core.sequence import FinishReason
from ellm.core.units import KIB
from ellm.engine.assembly import assemble_memory
from ellm.engine.engine import Engine
from ellm.memory.drivers.null import NullDriver
from ellm.memory.pool import ChunkPool
from ellm.sim.activations import Activations
from ellm.sim.clock import VirtualClock
from ellm.sim.executor import SimExecutor, Telltale
from ellm.sim.replay import SimModel, simulated_engine

VOCAB = 1000
MODEL = SimModel(activations=Activations(256, 256))


def request(name: str, prompt: list[int], max_tokens: int, **params: object) -> Request:
    merged = {"max_tokens": max_tokens, "seed": 0, **params}
    return Request(
        request_id=name,
        prompt=tuple(prompt),
        params=SamplingParams(**merged),  # type: ignore[arg-type]
    )


def expected(prompt: list[int], count: int, seed: int = 0) -> list[int]:
    """What Telltale must produce for a prompt left alone."""
    out: list[int] = []
    for _ in range(count):
        text = array("q", [*prompt, *out, seed]).tobytes()
        out.append(zlib.crc32(text) % VOCAB)
    return out


def drain(engine: Engine, limit: int = 10_000) -> dict[tuple[str, int], list[int]]:
    tokens: dict[tuple[str, int], list[int]] = {}
    for _ in range(limit):
        if not engine.has_work:
            return tokens
        for news in engine.step():
            if news.token is not None:
                tokens.setdefault((news.request_id, news.index), []).append(news.token)
        engine.check()
    raise AssertionError(f"still working after {limit} steps: {engine.snapshot()}")


def everything_is_free(engine: Engine) -> bool:
    engine.rest()
    memory = engine.snapshot().memory
    return memory.free == memory.total and memory.physical_bytes == 0


def build(
    layout: KvLayout = KvLayout.CONTIGUOUS,
    budget: int = 512 * KIB,
    chunk: int = 4 * KIB,
    seqs: int = 8,
    batched: int = 64,
    context: int = 128,
    prefix: bool = False,
    queued: int | None = None,
) -> Engine:
    memory = MemoryConfig(
        budget=budget, chunk_bytes=chunk, layout=layout, block_size=4, prefix_caching=prefix
    )
    limits = SchedulerConfig(
        max_num_seqs=seqs,
        max_num_batched_tokens=batched,
        max_model_len=context,
        max_num_queued_reqs=queued,
    )
    return simulated_engine(MODEL, memory, limits)


@pytest.mark.parametrize("layout", list(KvLayout))
def test_tokens_are_those_of_a_request_left_alone(layout: KvLayout) -> None:
    engine = build(layout)
    prompts = {f"r{i}": [i, *range(5 + 3 * i)] for i in range(20)}
    for name, prompt in prompts.items():
        engine.submit(request(name, prompt, 12))
    tokens = drain(engine)
    for name, prompt in prompts.items():
        assert tokens[name, 0] == expected(prompt, 12)
    assert everything_is_free(engine)


@pytest.mark.parametrize("layout", list(KvLayout))
def test_preemption_loses_nothing(layout: KvLayout) -> None:
    engine = build(layout, budget=100 * KIB, context=100)
    prompts = {f"r{i}": [i, *range(10)] for i in range(12)}
    for name, prompt in prompts.items():
        engine.submit(request(name, prompt, 60))
    tokens = drain(engine)
    assert engine.stats.preemptions > 0
    for name, prompt in prompts.items():
        assert tokens[name, 0] == expected(prompt, 60)
    assert everything_is_free(engine)


@pytest.mark.parametrize("layout", list(KvLayout))
def test_choices_share_their_prompt(layout: KvLayout) -> None:
    engine = build(layout, budget=4096 * KIB, context=1024, batched=1024)
    prompt = list(range(600))
    engine.submit(request("one", prompt, 3))
    engine.step()
    alone = engine.snapshot().memory.held["kv"]
    engine.abort("one")
    engine.submit(request("four", prompt, 3, n=4))
    engine.step()
    engine.step()
    assert engine.snapshot().running == 4
    assert engine.snapshot().memory.held["kv"] < 2 * alone
    tokens = drain(engine)
    for index in range(4):
        assert (
            tokens["four", index] == expected(prompt, 3, seed=index)[-len(tokens["four", index]) :]
        )
    assert everything_is_free(engine)


@pytest.mark.parametrize("layout", list(KvLayout))
def test_a_known_prefix_is_not_computed_again(layout: KvLayout) -> None:
    engine = build(layout, prefix=True)
    prompt = list(range(50))
    engine.submit(request("first", prompt, 4))
    drain(engine)
    engine.submit(request("again", prompt, 4))
    news = engine.step()
    assert news[0].cached_tokens == 48
    tokens = drain(engine)
    assert [news[0].token, *tokens["again", 0]] == expected(prompt, 4)


def test_a_prefix_makes_way_when_memory_is_short() -> None:
    engine = build(prefix=True, budget=128 * KIB, context=100)
    for i in range(20):
        prompt = [i] * 60
        engine.submit(request(f"r{i}", prompt, 30))
        assert drain(engine)[f"r{i}", 0] == expected(prompt, 30)
    assert engine.stats.preemptions == 0


@pytest.mark.parametrize("below", [0, 1024 * KIB])
def test_a_beginning_is_found_when_memory_is_full_of_others(below: int) -> None:
    memory = MemoryConfig(
        budget=256 * KIB,
        chunk_bytes=4 * KIB,
        block_size=4,
        prefix_caching=True,
        offload_bytes=below,
    )
    engine = simulated_engine(MODEL, memory, SchedulerConfig(max_num_seqs=2, max_model_len=120))
    prompts = [[number] * 100 for number in range(21)]
    for number, prompt in enumerate(prompts[:20]):
        engine.submit(request(str(number), prompt, 2))
        drain(engine)
    # The workspace of a new prompt takes what is free, and the end of 100 tokens' rows, which lies
    # within chunks, must be copied to four new ones.
    engine.submit(request("new", prompts[20], 2))
    engine.submit(request("late", [*prompts[19], 7, 8, 9], 2))
    drain(engine)
    assert engine.stats.cached_tokens == 100
    engine.submit(request("newer", prompts[0][:50] + prompts[1][:50], 2))
    engine.submit(request("early", [*prompts[10], 7, 8, 9], 2))
    drain(engine)
    assert engine.stats.cached_tokens - 100 == engine.stats.fetched_tokens == (100 if below else 0)


def test_abort_frees_at_once_wherever_the_request_is() -> None:
    engine = build(seqs=2)
    for i in range(5):
        engine.submit(request(f"r{i}", list(range(40)), 20))
    engine.step()
    for i in range(5):
        engine.abort(f"r{i}")
    assert everything_is_free(engine)
    news = engine.step()
    assert {n.finish_reason for n in news} == {FinishReason.ABORT}
    assert len(news) == 5
    assert not engine.has_work


def test_a_stop_string_is_a_stop_and_not_an_abort() -> None:
    engine = build()
    engine.submit(request("r", [1, 2, 3], 50))
    engine.step()
    engine.stop("r", 0)
    assert [news.finish_reason for news in engine.step()] == [FinishReason.STOP]
    assert engine.stats.finished == {"stop": 1}
    assert everything_is_free(engine)


def test_stop_tokens_minimum_and_end_tokens() -> None:
    engine = build()
    prompt = [1, 2, 3]
    text = expected(prompt, 10)
    stop = Request(
        request_id="stop",
        prompt=tuple(prompt),
        params=SamplingParams(max_tokens=10, seed=0, stop_token_ids=[text[4]]),
    )
    end = Request(
        request_id="end",
        prompt=tuple(prompt),
        params=SamplingParams(max_tokens=10, seed=0),
        end_token_ids=frozenset({text[2]}),
    )
    deaf = Request(
        request_id="deaf",
        prompt=tuple(prompt),
        params=SamplingParams(max_tokens=10, seed=0, ignore_eos=True),
        end_token_ids=frozenset({text[2]}),
    )
    for r in (stop, end, deaf):
        engine.submit(r)
    tokens = drain(engine)
    assert tokens["stop", 0] == text[:5]
    assert tokens["end", 0] == text[:3]
    assert tokens["deaf", 0] == text


def test_prompt_scores_arrive_once_each_even_after_preemption() -> None:
    engine = build(budget=100 * KIB, context=100, batched=16)
    for i in range(10):
        engine.submit(request(f"r{i}", [i, *range(40)], 40, prompt_logprobs=0))
    scores: dict[str, list[int]] = {}
    while engine.has_work:
        for news in engine.step():
            scores.setdefault(news.request_id, []).extend(s.token for s in news.scores)
    assert engine.stats.preemptions > 0
    for i in range(10):
        assert scores[f"r{i}"] == list(range(40))


def test_too_long_and_too_many_are_refused_at_the_door() -> None:
    engine = build(seqs=1, queued=2)
    with pytest.raises(ContextOverflow, match="above the context of 128"):
        engine.submit(request("long", [0] * 120, 9))
    for i in range(3):
        engine.submit(request(f"r{i}", [0], 2))
    with pytest.raises(QueueFull, match="3 requests wait"):
        engine.submit(request("r3", [0], 2))
    assert len(drain(engine)) == 3


def test_a_context_that_cannot_fit_is_said_before_serving() -> None:
    with pytest.raises(BudgetError, match="set --max-model-len"):
        build(budget=64 * KIB, context=5000)


@settings(max_examples=10)
@given(seed=st.integers(0, 2**32), layout=st.sampled_from(list(KvLayout)), prefix=st.booleans())
def test_a_machine_that_refuses_now_and_then_costs_time_alone(
    seed: int, layout: KvLayout, prefix: bool
) -> None:
    """Creating and mapping chunks fails at random, as when neighbours take the machine's memory."""
    driver = FaultyDriver(NullDriver(512 * KIB, 4 * KIB))
    rng = random.Random(seed)
    memory = MemoryConfig(layout=layout, block_size=4, prefix_caching=prefix)
    limits = SchedulerConfig(max_num_seqs=6, max_num_batched_tokens=48, max_model_len=96)
    pool = ChunkPool(driver, 512 * KIB)
    clock = VirtualClock()
    parts = assemble_memory(pool, MODEL.layers, memory, limits)
    executor = SimExecutor(clock, MODEL.cost, MODEL.activations, Telltale())
    engine = Engine(limits, parts, executor, clock)
    prompts = {f"r{i}": [i % 2] * (i * 7 % 50) + [i] for i in range(10)}
    for name, prompt in prompts.items():
        engine.submit(request(name, prompt, 30, n=2))
    tokens: dict[tuple[str, int], list[int]] = {}
    while engine.has_work:
        if rng.random() < 0.3:
            driver.arm(rng.choice(["create", "map"]), 1)
        for item in engine.step():
            assert item.token is not None
            tokens.setdefault((item.request_id, item.index), []).append(item.token)
        engine.check()
    for name, prompt in prompts.items():
        for index in range(2):
            assert tokens[name, index] == expected(prompt, 30, seed=index)
