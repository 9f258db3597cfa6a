"""The engine under every mix of memory's parts: budgets that change, and drivers that refuse."""

from __future__ import annotations

from ahead import Ahead
from faulty import FaultyDriver
from hypothesis import given, settings
from hypothesis import strategies as st
from test_engine_sim import MODEL, expected, request

from ellm.core.config import ElasticPart, KvLayout, MemoryConfig, MemoryMode, SchedulerConfig
from ellm.core.executor import Executor
from ellm.core.units import KIB, ceil_div
from ellm.engine.assembly import assemble_memory
from ellm.engine.engine import Engine
from ellm.engine.fit import smallest_step
from ellm.memory.drivers.null import NullDriver
from ellm.memory.pool import ChunkPool
from ellm.memory.unmapping import DeferredUnmaps
from ellm.sim.clock import VirtualClock
from ellm.sim.executor import SimExecutor, Telltale

CONTEXT = 96
PARTS = (ElasticPart.WARM, ElasticPart.PREMAP, ElasticPart.DEFER, ElasticPart.PREFILL)
parts = st.sets(st.sampled_from(PARTS)).map(frozenset)


class Bench:
    """An engine whose driver may refuse, what was asked of it, and what it has said."""

    def __init__(
        self,
        memory: MemoryConfig,
        limits: SchedulerConfig,
        budget: int = 512 * KIB,
        ahead: bool = False,
    ) -> None:
        chunk = memory.chunk_bytes or 4 * KIB
        self.driver = FaultyDriver(NullDriver(budget, chunk))
        unmaps = DeferredUnmaps(self.driver, at_once=not memory.uses(ElasticPart.DEFER))
        self.pool = ChunkPool(self.driver, budget, unmaps)
        clock = VirtualClock()
        self.memory = assemble_memory(self.pool, MODEL.layers, memory, limits)
        self.executor: Executor = SimExecutor(clock, MODEL.cost, MODEL.activations, Telltale())
        if ahead:
            self.executor = Ahead(self.executor)
        self.engine = Engine(limits, self.memory, self.executor, clock)
        self.most = self.pool.total
        self.texts: dict[str, tuple[list[int], int, int]] = {}
        self.tokens: dict[tuple[str, int], list[int]] = {}
        self.gone: set[str] = set()

    @property
    def least(self) -> int:
        """The smallest total with which one sequence of the whole context can always run."""
        step = self.executor.activation_bytes(smallest_step(CONTEXT, gathers=True))
        room = ceil_div(step, self.pool.chunk_bytes)
        if self.memory.config.mode is MemoryMode.STATIC:
            room = self.pool.ledger.reach("activations")
        return room + self.memory.kv._store.chunks_alone(CONTEXT)

    def submit(self, prompt: list[int], count: int, choices: int = 1) -> None:
        name = f"r{len(self.texts)}"
        self.texts[name] = (prompt, count, choices)
        self.engine.submit(request(name, prompt, count, n=choices))

    def abort(self, name: str) -> None:
        self.gone.add(name)
        self.engine.abort(name)

    def step(self) -> None:
        for news in self.engine.step():
            if news.token is not None:
                self.tokens.setdefault((news.request_id, news.index), []).append(news.token)
        self.engine.check()
        self.nothing_is_promised()
        self.figures_add_up()

    def nothing_is_promised(self) -> None:
        """Nobody is said to hold more than is computed."""
        index = self.memory.kv._index
        for sequence in self.engine._sequences.values() if index is not None else ():
            assert index.held(sequence.seq_id) <= sequence.computed, sequence

    def figures_add_up(self) -> None:
        state = self.engine.snapshot()
        memory = state.memory
        assert sum(memory.held.values()) + memory.free == memory.total
        assert {kind: n for kind, n in state.owners.items() if n} == {
            owner: n for owner, n in memory.held.items() if n
        }
        assert 0 <= state.kv_usage <= 1
        assert 0 <= state.kv_waste <= 1
        idle = dict(state.idle)
        assert min([0, *idle.values()]) == 0
        assert idle.pop("workspace", 0) <= state.owners["activations"]
        assert sum(idle.values()) <= state.owners["kv"]

    def drain(self) -> None:
        for _ in range(4000):
            if not self.engine.has_work:
                break
            self.step()
        assert not self.engine.has_work, self.engine.snapshot()
        for name, (prompt, count, choices) in self.texts.items():
            for index in range(choices if name not in self.gone else 0):
                assert self.tokens[name, index] == expected(prompt, count, seed=index)

    def end(self) -> None:
        """All that was held is free again, and the machine has it back."""
        self.engine.release_idle()
        self.pool.resize(self.most)
        memory = self.engine.snapshot().memory
        assert (memory.free, memory.physical_bytes) == (memory.total, 0)
        assert not self.pool.unmaps


@st.composite
def benches(draw: st.DrawFn) -> Bench:
    static = draw(st.integers(0, 3)) == 0
    memory = MemoryConfig(
        layout=draw(st.sampled_from(list(KvLayout))),
        chunk_bytes=draw(st.sampled_from([4 * KIB, 8 * KIB, 16 * KIB])),
        block_size=draw(st.sampled_from([4, 16])),
        prefix_caching=draw(st.booleans()),
        mode=MemoryMode.STATIC if static else MemoryMode.ELASTIC,
        parts=draw(parts),
    )
    limits = SchedulerConfig(
        max_num_seqs=draw(st.integers(1, 6)),
        max_num_batched_tokens=draw(st.sampled_from([64, 5] if static else [None, 1, 40])),
        chunked_prefill=draw(st.integers(0, 3)) > 0,
        max_model_len=CONTEXT,
    )
    return Bench(memory, limits, draw(st.integers(150, 300)) * KIB, draw(st.booleans()))


@settings(max_examples=30)
@given(bench=benches(), data=st.data())
def test_whatever_memory_does_every_token_comes_out_as_if_alone(
    bench: Bench, data: st.DataObject
) -> None:
    kinds = ["create", "map", "unmap", "destroy", "copy"]
    for turn in range(data.draw(st.integers(1, 10))):
        for _ in range(data.draw(st.integers(0, 3))):
            prompt = [data.draw(st.integers(0, 2))] * data.draw(st.integers(1, 60)) + [turn]
            bench.submit(prompt, data.draw(st.integers(1, 30)), data.draw(st.integers(1, 3)))
        what = data.draw(st.sampled_from(["nothing", "abort", "yield", "resize", "refuse"]))
        if what == "abort" and bench.texts:
            bench.abort(data.draw(st.sampled_from(sorted(bench.texts))))
        elif what == "yield":
            bench.engine.yield_memory()
        elif what == "resize":
            bench.pool.resize(data.draw(st.integers(bench.least, bench.most)))
        elif what == "refuse":
            bench.driver.arm(data.draw(st.sampled_from(kinds)), data.draw(st.integers(1, 3)))
        for _ in range(data.draw(st.integers(0, 4))):
            bench.step()
    bench.drain()
    bench.driver.arm("", 0)
    bench.end()


def test_a_prompt_in_one_piece_is_cut_only_when_it_is_alone_and_too_large() -> None:
    """A step of all 90 tokens takes 23 KiB of activations: more than is left beside their KV."""
    memory = MemoryConfig(chunk_bytes=4 * KIB)
    limits = SchedulerConfig(
        max_num_seqs=4, max_num_batched_tokens=40, chunked_prefill=False, max_model_len=CONTEXT
    )
    bench = Bench(memory, limits)
    bench.submit([1] * 90, 3)
    bench.step()
    assert len(bench.tokens["r0", 0]) == 1, "the whole prompt is one step"
    bench.pool.resize(bench.least)
    bench.submit([2] * 90, 3)
    bench.drain()
    bench.end()


def test_a_lowered_budget_takes_the_workspace_of_the_last_step_before_a_sequence() -> None:
    bench = Bench(MemoryConfig(chunk_bytes=4 * KIB), SchedulerConfig(max_model_len=CONTEXT))
    bench.submit([1] * 80, 10)
    bench.step()
    owners = bench.engine.snapshot().owners
    assert owners["activations"] > 2
    bench.pool.resize(owners["kv"] + 2)
    bench.step()
    assert bench.engine.stats.preemptions == 0
    bench.drain()
    bench.end()
