"""A whole engine on the CUDA backend: both layouts, preemption, graphs, memory mapped anew.

Not collected by itself: `tests/gpu/test_cuda_engine.py` runs it on a device, and
`test_interpreted_kernels.py` on the CPU, with few requests.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

import pytest
from interpreted import DEVICE, INTERPRETED, stand_in

from ellm.core.config import KvLayout
from ellm.core.executor import Executor
from ellm.core.request import Request
from ellm.core.result import TokenLogprobs
from ellm.core.sampling import SamplingParams
from ellm.core.units import MIB
from ellm.engine.engine import Engine
from ellm.kernels.cuda.ops import CudaOps
from ellm.kernels.cuda.table import Form
from ellm.llm import build as composition
from ellm.llm.args import EngineArgs
from ellm.llm.build import Built, build
from ellm.runtime.runner import Runner

REQUESTS, TOKENS, LONGEST = (3, 3, 12) if INTERPRETED else (48, 24, 160)
ARGS = EngineArgs(
    model="ellm-draft" if INTERPRETED else "ellm-base",
    device=DEVICE,
    dtype="float16" if INTERPRETED else "bfloat16",
    memory=(256 if INTERPRETED else 2048) * MIB,
    chunk_bytes=2 * MIB,
    max_model_len=512,
    max_num_seqs=64,
    max_num_batched_tokens=512,
    enable_prefix_caching=False,
)
# Nats between answers in half precision and those in float32.
SLACK = 0.02 if INTERPRETED else 0.4
pytestmark = pytest.mark.filterwarnings("ignore:overflow encountered in exp:RuntimeWarning")

Answers = Mapping[str, list[TokenLogprobs]]
layouts = pytest.mark.parametrize("layout", list(KvLayout))


@pytest.fixture(autouse=True)
def device(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch)
    if INTERPRETED:
        monkeypatch.setattr(composition, "choose_ops", lambda *_: CudaOps())


@pytest.fixture(scope="module")
def truth() -> Answers:
    """On the CPU in float32."""
    built = build(replace(ARGS, device="cpu", dtype="float32", memory=256 * MIB))
    try:
        return answers(built.engine)
    finally:
        built.engine.close()


def requests(drawn: bool) -> Iterator[Request]:
    """Some of them with tokens drawn at random, of given seeds, where that is asked for."""
    rng = random.Random(7)
    for number in range(REQUESTS):
        prompt = tuple(rng.randrange(100, 8000) for _ in range(rng.randrange(1, LONGEST)))
        warm = 0.7 if drawn and number % 3 == 0 else 0.0
        params = SamplingParams(
            max_tokens=TOKENS + number % 3,
            temperature=warm,
            top_p=0.9,
            seed=number,
            ignore_eos=True,
            logprobs=None if drawn else 5,
        )
        yield Request(request_id=f"r{number}", prompt=prompt, params=params)


def answers(
    engine: Engine, drawn: bool = False, between: Callable[[], None] = lambda: None
) -> Answers:
    out: dict[str, list[TokenLogprobs]] = {}
    for request in requests(drawn):
        engine.submit(request)
    while engine.has_work:
        between()
        for news in engine.step():
            assert news.token is not None
            logprobs = news.logprobs or TokenLogprobs(news.token, 0.0, 0)
            out.setdefault(news.request_id, []).append(logprobs)
    engine.check()
    return out


def assert_like(found: Answers, truth: Answers) -> None:
    """Every token, as far as the words are the same, is one that the reference finds as likely."""
    same = 0
    for name, wanted in truth.items():
        for mine, theirs in zip(found[name], wanted, strict=True):
            likely = dict(theirs.top)
            assert likely.get(mine.token, -1e9) > theirs.logprob - SLACK, (name, mine, theirs)
            assert mine.logprob == pytest.approx(likely[mine.token], abs=SLACK)
            if mine.token != theirs.token:
                break
            same += 1
    assert same > 0.3 * sum(map(len, truth.values())), same


def watched(args: EngineArgs) -> tuple[Built, Runner]:
    """An engine, and what executes for it."""
    runners: list[Runner] = []

    def around(runner: Executor) -> Executor:
        assert isinstance(runner, Runner)
        runner.ahead = True  # as it is on a GPU without being told
        runners.append(runner)
        return runner

    built = build(args, around=around)
    assert isinstance(runners[0]._ops, CudaOps), "no kernels of the backend were chosen"
    return built, runners[0]


@layouts
def test_words_are_the_reference_s(layout: KvLayout, truth: Answers) -> None:
    built, runner = watched(replace(ARGS, kv_layout=layout))
    assert_like(answers(built.engine), truth)
    assert len(runner._programs) > 1
    built.engine.close()


def test_float32_is_computed_by_pytorch(truth: Answers) -> None:
    if INTERPRETED:
        return
    built = build(replace(ARGS, dtype="float32"))
    assert_like(answers(built.engine), truth)
    built.engine.close()


@layouts
def test_graphs_do_what_launches_do(layout: KvLayout, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also after every chunk of KV and of activations has been given back and mapped anew."""
    args = replace(ARGS, kv_layout=layout)
    built, runner = watched(args)
    captured = answers(built.engine, drawn=True)
    # What was met once is recorded when it is met again.
    assert answers(built.engine, drawn=True) == captured
    programs = len(runner._programs)
    assert programs > 1
    forms = [key[-1] for key in runner._programs._kept]
    mixed = any(isinstance(form, Form) and form.prompts for form in forms)
    assert mixed or layout is KvLayout.PAGED
    assert built.engine.release_idle() > 0
    assert answers(built.engine, drawn=True) == captured
    assert len(runner._programs) == programs
    built.engine.close()
    monkeypatch.setattr(CudaOps, "trace", lambda *_: None)
    built, runner = watched(args)
    assert answers(built.engine, drawn=True) == captured
    assert not len(runner._programs)
    built.engine.close()


@layouts
def test_words_survive_preemption(layout: KvLayout, truth: Answers) -> None:
    built, _ = watched(replace(ARGS, kv_layout=layout))
    rng = random.Random(5)

    def squeeze() -> None:
        """Now and then, change the budget: room for a few sequences beside the weights."""
        if rng.random() < 0.3:
            pool = built.engine._memory.pool
            least, most = (30, 60) if layout is KvLayout.CONTIGUOUS else (12, 18)
            pool.resize(pool.held("weights") + rng.randrange(least, most))

    assert_like(answers(built.engine, between=squeeze), truth)
    if not INTERPRETED:
        assert built.engine.stats.preemptions > 0
    built.engine.close()


@layouts
def test_prompts_in_chunks(layout: KvLayout, truth: Answers) -> None:
    """Chunks attend to what is there already, beside sequences that decode."""
    tokens = 9 if INTERPRETED else 48
    args = replace(ARGS, max_num_batched_tokens=tokens, enable_prefix_caching=True)
    built, _ = watched(replace(args, kv_layout=layout))
    assert_like(answers(built.engine), truth)
    if not INTERPRETED:
        assert_like(answers(built.engine), truth)
        assert built.engine.stats.cached_tokens > 0
    built.engine.close()
