"""Steps that are planned while the one before is computed."""

from __future__ import annotations

import pytest
from ahead import Ahead
from test_engine_sim import MODEL, drain, expected, request

from ellm.core.config import KvLayout, MemoryConfig, SchedulerConfig
from ellm.core.output import SequenceOutput
from ellm.core.request import Request
from ellm.core.sampling import SamplingParams
from ellm.core.sequence import FinishReason
from ellm.core.units import KIB
from ellm.engine.assembly import assemble_memory
from ellm.engine.engine import Engine
from ellm.memory.drivers.null import NullDriver
from ellm.memory.pool import ChunkPool
from ellm.sim.clock import VirtualClock
from ellm.sim.executor import SimExecutor, Telltale

PROMPT = [5, 6, 7]


class Scene:
    """An engine over accounts whose executor runs ahead, in virtual time."""

    def __init__(self, seqs: int = 4, layout: KvLayout = KvLayout.CONTIGUOUS) -> None:
        memory = MemoryConfig(budget=512 * KIB, chunk_bytes=4 * KIB, layout=layout, block_size=4)
        limits = SchedulerConfig(max_num_seqs=seqs, max_model_len=128)
        self.clock = VirtualClock()
        pool = ChunkPool(NullDriver(512 * KIB, 4 * KIB), 512 * KIB)
        parts = assemble_memory(pool, MODEL.layers, memory, limits)
        inner = SimExecutor(self.clock, MODEL.cost, MODEL.activations, Telltale())
        self.executor = Ahead(inner)
        self.engine = Engine(limits, parts, self.executor, self.clock)

    def tokens(self) -> list[int | None]:
        return [news.token for news in self.engine.step()]


def test_a_token_is_told_when_the_next_step_has_been_launched() -> None:
    scene = Scene()
    scene.engine.submit(request("r", PROMPT, 4))
    told = [scene.tokens() for _ in range(5)]
    assert told == [[], *([token] for token in expected(PROMPT, 4))]
    assert scene.executor.followed == 3
    assert not scene.engine.has_work
    assert scene.engine.stats.steps == 4, "nothing was computed behind the last token"


def test_nothing_is_computed_twice_for_those_who_end_by_length() -> None:
    scene = Scene()
    for number in range(9):
        scene.engine.submit(request(f"r{number}", [number] * 5, 1 + number % 4))
    tokens = drain(scene.engine)
    for number in range(9):
        assert tokens[f"r{number}", 0] == expected([number] * 5, 1 + number % 4)
    assert scene.engine.stats.generation_tokens == sum(1 + n % 4 for n in range(9))


def test_an_end_that_nobody_foresaw_costs_one_part_of_a_step() -> None:
    scene = Scene()
    words = expected(PROMPT, 8)
    params = SamplingParams(max_tokens=8, seed=0)
    ends = frozenset({words[3]})
    scene.engine.submit(
        Request(request_id="r", prompt=tuple(PROMPT), params=params, end_token_ids=ends)
    )
    news: list[SequenceOutput] = []
    while scene.engine.has_work:
        news += scene.engine.step()
    assert [one.token for one in news] == words[:4]
    assert news[-1].finish_reason is FinishReason.STOP
    assert scene.executor.under_way == 1
    scene.engine.check()
    assert scene.engine.stats.generation_tokens == 4
    scene.engine.submit(request("next", [9], 3))
    assert drain(scene.engine)["next", 0] == expected([9], 3)
    scene.engine.rest()
    assert scene.executor.under_way == 0
    memory = scene.engine.snapshot().memory
    assert (memory.free, memory.physical_bytes) == (memory.total, 0)


@pytest.mark.parametrize("layout", list(KvLayout))
def test_whoever_is_stopped_or_aborted_on_the_way_is_gone_at_once(layout: KvLayout) -> None:
    scene = Scene(layout=layout)
    for name in ("stopped", "aborted", "goes on"):
        scene.engine.submit(request(name, PROMPT, 20))
    for _ in range(5):
        scene.engine.step()
    scene.engine.stop("stopped", 0)
    scene.engine.abort("aborted")
    scene.engine.check()
    tokens = drain(scene.engine)
    assert set(tokens) == {("goes on", 0)}
    assert tokens["goes on", 0] == expected(PROMPT, 20)[4:]
    figures = scene.engine.stats.request_generation_tokens
    assert (figures.count, figures.total) == (2, 4 + 20)


def test_penalties_wait_for_the_tokens_they_read() -> None:
    scene = Scene()
    scene.engine.submit(request("r", PROMPT, 6, presence_penalty=0.5))
    assert drain(scene.engine)["r", 0] == expected(PROMPT, 6)
    assert scene.executor.followed == 0


def test_a_step_takes_from_when_the_one_before_landed() -> None:
    """A device that computes one step after the other: what is measured adds up."""
    scene = Scene()
    for number in range(3):
        scene.engine.submit(request(f"r{number}", [number] * 7, 10))
    drain(scene.engine)
    times = scene.engine.stats.step_time
    assert times.total == pytest.approx(scene.clock.now())


def test_choices_share_the_prompt_of_one_that_has_its_last_token_under_way() -> None:
    scene = Scene()
    prompt = list(range(40))
    scene.engine.submit(request("r", prompt, 1, n=3))
    tokens = drain(scene.engine)
    assert [tokens["r", i] for i in range(3)] == [expected(prompt, 1, seed=i) for i in range(3)]
    assert scene.engine.stats.iteration_tokens.total == 40 + 2
