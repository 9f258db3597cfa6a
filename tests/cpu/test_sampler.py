"""What the sampler promises: vLLM's distribution, drawn the same in any company."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from device_half import ops_for
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from ellm.core.plan import SamplingTask
from ellm.core.result import TokenLogprobs
from ellm.core.sampling import SamplingParams
from ellm.kernels.heights import height
from ellm.runtime.sampler import Buffers, Sampler
from ellm.runtime.uniform import uniform
from ellm.runtime.workspace import Workspace, WorkspaceCounter

VOCAB = 24
OPS = ops_for(torch.float32)


class Room:
    """A workspace over ordinary memory."""

    def __init__(self, nbytes: int = 1 << 26) -> None:
        self.memory = torch.empty(nbytes + 64, dtype=torch.uint8)
        address = -(-self.memory.data_ptr() // 64) * 64
        self.workspace = Workspace(address, nbytes)


@pytest.fixture(scope="module")
def room() -> Room:
    return Room()


def task(
    seed: int = 0,
    prompt: Sequence[int] = (1, 2, 3),
    output: Sequence[int] = (),
    banned: Sequence[int] = (),
    **fields: Any,
) -> SamplingTask:
    least = len(output) + 1 if banned else 0
    params = SamplingParams(min_tokens=least, **fields)
    return SamplingTask(params, [*prompt, *output], len(prompt), seed, banned)


def sample(
    sampler: Sampler, logits: Tensor, tasks: list[SamplingTask]
) -> list[tuple[int, TokenLogprobs | None]]:
    """Tokens, and reports on them."""
    out = torch.empty(len(tasks), dtype=torch.int64)
    sampler.sample(logits, tasks, out)
    chosen = out.tolist()
    reports = sampler.report(logits, chosen, [task.params.logprobs for task in tasks])
    return list(zip(chosen, reports, strict=True))


def tokens(room: Room, logits: Tensor, tasks: list[SamplingTask]) -> list[int]:
    sampler = Sampler(logits.shape[-1], room.workspace, OPS)
    return [token for token, _ in sample(sampler, logits.clone(), tasks)]


def expected(logits: Tensor, prompt: list[int], output: list[int], p: SamplingParams) -> Tensor:
    """The distribution by transformers' own processors, in vLLM's order."""
    seen = torch.tensor([prompt + output])
    scores = logits[None].float().clone()
    for token, bias in (p.logit_bias or {}).items():
        scores[0, token] += bias
    steps = LogitsProcessorList()
    if p.repetition_penalty != 1.0:
        steps.append(RepetitionPenaltyLogitsProcessor(p.repetition_penalty))
    scores = steps(seen, scores)
    for token in set(output):
        scores[0, token] -= p.frequency_penalty * output.count(token) + p.presence_penalty
    filters = LogitsProcessorList([TemperatureLogitsWarper(p.temperature)])
    if p.min_p:
        filters.append(MinPLogitsWarper(p.min_p))
    if p.top_k > 0:
        filters.append(TopKLogitsWarper(p.top_k))
    if p.top_p < 1:
        filters.append(TopPLogitsWarper(p.top_p))
    return filters(seen, scores)[0].softmax(-1)


CASES: list[dict[str, object]] = [
    {},
    {"temperature": 0.5},
    {"temperature": 3.0, "top_k": 5},
    {"top_k": 1},
    {"top_p": 0.7},
    {"top_p": 0.999999},
    {"min_p": 0.2},
    {"min_p": 0.05, "top_k": 8, "top_p": 0.8, "temperature": 1.7},
    {"repetition_penalty": 1.8},
    {"presence_penalty": 1.5, "frequency_penalty": 0.7},
    {"frequency_penalty": -1.0, "repetition_penalty": 0.6, "logit_bias": {3: 2.0, 9: -50.0}},
    {"logit_bias": {3: 4.0}, "top_p": 0.5},
]


@pytest.mark.parametrize("fields", CASES, ids=lambda c: ",".join(c) or "plain")
def test_draws_follow_the_distribution_of_transformers(
    room: Room, fields: dict[str, object]
) -> None:
    logits = torch.randn(VOCAB, generator=torch.Generator().manual_seed(7)) * 2
    prompt, output, draws = [1, 2, 3], [3, 3, 5, 9], 6000
    want = expected(logits, prompt, output, SamplingParams(**fields))  # type: ignore[arg-type]
    tasks = [task(seed, prompt, output=output, **fields) for seed in range(draws)]
    got = torch.bincount(
        torch.tensor(tokens(room, logits.expand(draws, -1), tasks)), minlength=VOCAB
    )
    assert not got[want == 0].any()
    assert got[want * draws > 20].all()
    held = want > 0
    chi2 = ((got - want * draws)[held] ** 2 / (want * draws)[held].clamp(min=1.0)).sum()
    freedom = max(1, int(held.sum()) - 1)
    assert chi2 < freedom + 5 * math.sqrt(2 * freedom) + 5


def test_a_wide_nucleus_needs_more_than_the_candidates(room: Room) -> None:
    vocab = 5000
    logits = torch.linspace(0, 0.01, vocab)
    tasks = [task(seed, top_p=0.5) for seed in range(200)]
    drawn = tokens(room, logits.expand(200, -1), tasks)
    kept = expected(logits, [1], [], SamplingParams(top_p=0.5)) > 0
    assert all(kept[token] for token in drawn)
    assert len(set(drawn)) > 150
    drawn = tokens(room, logits.expand(200, -1), [task(s, top_k=2000) for s in range(200)])
    assert min(drawn) >= vocab - 2000
    assert len(set(drawn)) > 150


@given(data=st.data())
@settings(max_examples=12, deadline=None)
def test_company_changes_nothing(room: Room, data: st.DataObject) -> None:
    """A row alone, and the same row anywhere in any batch, across blocks and dtypes."""
    dtype = data.draw(st.sampled_from([torch.float32, torch.bfloat16]))
    rows = data.draw(st.integers(1, 6))
    vocab = 120_000
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 1000)))
    logits = (torch.randn(rows, vocab, generator=generator) * 3).to(dtype)
    fields = st.fixed_dictionaries(
        {},
        optional={
            "temperature": st.sampled_from([0.0, 0.7, 2.0]),
            "top_k": st.sampled_from([0, 3, 50, 3000]),
            "top_p": st.sampled_from([0.3, 0.9, 1.0]),
            "min_p": st.sampled_from([0.0, 0.1]),
            "logprobs": st.sampled_from([None, 0, 4]),
            "presence_penalty": st.just(0.5),
        },
    )
    tasks = [task(data.draw(st.integers(0, 2**63)), **data.draw(fields)) for _ in range(rows)]
    sampler = Sampler(vocab, room.workspace, OPS)
    together = sample(sampler, logits.clone(), tasks)
    alone = [sample(sampler, logits[i : i + 1].clone(), [tasks[i]])[0] for i in range(rows)]
    assert together == alone


def test_the_position_moves_the_draw(room: Room) -> None:
    logits = torch.zeros(50, 1000)
    tasks = [task(5, output=[0] * i) for i in range(50)]
    assert len(set(tokens(room, logits, tasks))) > 40
    assert tokens(room, logits, tasks) == tokens(room, logits, tasks)


def test_uniform_is_uniform_and_pure() -> None:
    values = torch.tensor([uniform(seed, place) for seed in range(50) for place in range(200)])
    assert uniform(3, 4) == uniform(3, 4)
    assert uniform(-1, 0) == uniform(2**64 - 1, 0)
    assert values.min() >= 0
    assert values.max() < 1
    assert len(values.unique()) > 9900
    counts = torch.histc(values, 20, 0, 1)
    assert ((counts - 500) ** 2 / 500).sum() < 45
    grid = values.view(50, 200)
    assert (
        torch.corrcoef(torch.stack([grid[:, :-1].flatten(), grid[:, 1:].flatten()]))[0, 1].abs()
        < 0.04
    )


def test_greedy_takes_the_first_of_the_likeliest(room: Room) -> None:
    logits = torch.tensor([[0.0, 5.0, 5.0], [1.0, 0.0, -1.0]], dtype=torch.bfloat16)
    assert tokens(room, logits, [task(temperature=0), task(temperature=0)]) == [1, 0]
    mixed = [task(temperature=0, logit_bias={0: 9.0}), task(temperature=0)]
    assert tokens(room, logits, mixed) == [0, 0]
    assert tokens(room, logits, [task(temperature=0, banned=[1]), task(temperature=0)]) == [2, 0]


def test_banned_tokens_never_come(room: Room) -> None:
    logits = torch.zeros(100, 6)
    drawn = tokens(room, logits, [task(s, banned=[0, 2, 4]) for s in range(100)])
    assert set(drawn) == {1, 3, 5}


@pytest.mark.parametrize(
    "fields", [{"temperature": 0}, {}, {"top_p": 0.5}, {"top_k": 2}, {"min_p": 0.5}]
)
def test_broken_rows_spoil_only_themselves(room: Room, fields: dict[str, object]) -> None:
    nan, inf = math.nan, math.inf
    logits = torch.tensor(
        [
            [0.0, 9.0, 0.0, 0.0],
            [nan, nan, nan, nan],
            [-inf, -inf, -inf, -inf],
            [inf, -inf, nan, 1.0],
            [nan, -inf, -inf, 30.0],
            [3e38, 1.0, 2.0, -3e38],
        ]
    )
    tasks = [task(1, logprobs=2, repetition_penalty=1e-3, **fields) for _ in range(6)]
    results = sample(Sampler(4, room.workspace, OPS), logits, tasks)
    assert [token for token, _ in results] == [1, 0, 0, 0, 3, 0]
    for _, report in results:
        assert report is not None
        assert not math.isnan(report.logprob)


def test_plain_greedy_rows_with_nan_do_not_choose_it(room: Room) -> None:
    logits = torch.tensor([[0.0, math.nan, 2.0], [1.0, 0.0, 0.0]])
    assert tokens(room, logits, [task(temperature=0)] * 2) == [2, 0]


def test_logprobs_are_of_the_raw_distribution(room: Room) -> None:
    logits = torch.randn(3, 50, generator=torch.Generator().manual_seed(1)) * 3
    tasks = [
        task(1, temperature=0.0, logprobs=5, logit_bias={7: 100.0}),
        task(2, temperature=2.0, logprobs=0),
        task(3, temperature=2.0),
    ]
    results = sample(Sampler(50, room.workspace, OPS), logits.clone(), tasks)
    raw = logits.log_softmax(-1)
    for row in (0, 1):
        token, report = results[row]
        assert report is not None
        assert report.token == token
        assert report.logprob == pytest.approx(float(raw[row, token]), abs=1e-6)
        assert report.rank == int((raw[row] > raw[row, token]).sum()) + 1
    assert results[0][0] == 7
    assert results[0][1] is not None
    best = raw[0].topk(5)
    assert [t for t, _ in results[0][1].top] == best.indices.tolist()
    assert [v for _, v in results[0][1].top] == pytest.approx(best.values.tolist(), abs=1e-6)
    assert results[1][1] is not None
    assert results[1][1].top == ()
    assert results[2][1] is None


def test_more_logprobs_than_tokens_exist(room: Room) -> None:
    _, report = sample(Sampler(4, room.workspace, OPS), torch.zeros(1, 4), [task(logprobs=20)])[0]
    assert report is not None
    assert len(report.top) == 4


@pytest.mark.parametrize("vocab", [30, 300_000])
def test_score_equals_log_softmax(room: Room, vocab: int) -> None:
    logits = torch.randn(5, vocab, generator=torch.Generator().manual_seed(1)).bfloat16()
    targets = [0, 5, 29, 1, 2]
    raw = logits.double().log_softmax(-1)
    for row, score in enumerate(Sampler(vocab, room.workspace, OPS).score(logits, targets, 3)):
        assert score.token == targets[row]
        assert score.logprob == pytest.approx(float(raw[row, targets[row]]), abs=1e-5)
        assert score.rank == int((raw[row] > raw[row, targets[row]]).sum()) + 1
        assert [v for _, v in score.top] == pytest.approx(raw[row].topk(3).values.tolist())


@pytest.mark.parametrize("vocab", [100, 8192, 152_000])
def test_the_room_it_takes_is_known_beforehand(vocab: int) -> None:
    room = Room(1 << 25)
    for rows in (1, 3, 20):
        counter = WorkspaceCounter()
        Buffers.take(counter, OPS, height(rows), vocab)
        for fields in ({"temperature": 0}, {"top_p": 0.9, "logprobs": 1}):
            room.workspace.reset()
            tokens(room, torch.zeros(rows, vocab), [task(**fields)] * rows)
            assert room.workspace.peak == counter.peak
            assert room.workspace.mark() == 0
