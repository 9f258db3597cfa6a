"""An engine over a tier that really keeps bytes, and an executor that really writes every row.

Each row of the arena gets bytes that say which layer of which token it is, after which text and
under which salt.  The executor checks all rows of a sequence before it computes a layer and again
after it, so a row that was moved to the wrong place, shared with the wrong sequence, overwritten
or not brought back gives itself away.

With a stream, rows are written and checked by work of the stream, later than the engine goes on:
what is copied, mapped or unmapped too early gives itself away as well.
"""

from __future__ import annotations

import errno
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from hashlib import blake2b
from unittest.mock import patch

from ahead import Ahead
from fake_stream import FakeStream, Pace
from faulty import FaultyDriver
from test_engine_sim import VOCAB, expected

from ellm.core.config import ElasticPart, MemoryConfig, MemoryMode, SchedulerConfig
from ellm.core.errors import DriverError
from ellm.core.executor import Executor, Ferry, Landed
from ellm.core.layers import KvArena, LayerSpec
from ellm.core.objectives import Objectives
from ellm.core.plan import SequenceStep, StepPlan
from ellm.core.request import Request
from ellm.core.sampling import SamplingParams
from ellm.core.sequence import Sequence as EngineSequence
from ellm.core.units import KIB, ceil_div
from ellm.engine import assembly
from ellm.engine.engine import Engine
from ellm.engine.fit import smallest_step
from ellm.kv.layered import LayeredLot
from ellm.kv.parking import Whereabouts
from ellm.memory.drivers.host import HostDriver
from ellm.memory.drivers.null import NullDriver
from ellm.memory.extents import DriverAccess, Region
from ellm.memory.pool import ChunkPool
from ellm.memory.store import Place
from ellm.memory.stores.host import HostStore
from ellm.memory.stores.void import VoidStore
from ellm.memory.thread_copier import ThreadCopier
from ellm.memory.tiers import Tiers
from ellm.memory.timed_copier import TimedCopier
from ellm.memory.transfer import Copier
from ellm.memory.unmapping import DeferredUnmaps
from ellm.scheduling.coefficients import Coefficients
from ellm.scheduling.cost import StepCost
from ellm.sim.activations import Activations
from ellm.sim.clock import VirtualClock
from ellm.sim.executor import SimExecutor, Telltale

CONTEXT = 96
PIECE = 1 * KIB
LAYERS = (LayerSpec(2, 16, 2),) * 4
# A prompt of fifty tokens takes three steps' time: what is on a fast tier is worth fetching.
MACHINE = Coefficients.even(token=4e-4, attention=0.0, kv_token=1e-6, sequence=1e-4, step=1e-2)


class FaultyStore(HostStore):
    """After `arm(kind, n)` the n-th write or read fails half way, having spoilt its target."""

    def __init__(self, capacity: int, access: DriverAccess) -> None:
        super().__init__(capacity, access, piece_bytes=PIECE, slab_bytes=4 * PIECE)
        self.kind = ""
        self.left = 0

    def arm(self, kind: str, at: int) -> None:
        self.kind, self.left = kind, at

    def _fails(self, kind: str) -> bool:
        if kind != self.kind or not self.left:
            return False
        self.left -= 1
        return not self.left

    def write(self, place: Place, offset: int, source: Region) -> Iterator[int]:
        if self._fails("write"):
            raise OSError(errno.EIO, "write refused by the test")
        yield from super().write(place, offset, source)

    def read(self, place: Place, offset: int, target: Region) -> Iterator[int]:
        fails = self._fails("read")
        yield from super().read(place, offset, target)
        if fails:
            spoilt = self._access.allocate(target.size)
            target.write(0, target.size // 2, spoilt.address)
            self._access.free(spoilt)
            raise OSError(errno.EBADMSG, "a checksum refused by the test")


class LaggingDriver(FaultyDriver):
    """Its copies are work of a stream, as those of a device are."""

    def __init__(self, driver: HostDriver, stream: FakeStream) -> None:
        super().__init__(driver)
        self._stream = stream

    def copy(self, target: int, source: int, count: int) -> None:
        self._pass("copy")
        self._stream.launch(partial(self.inner.copy, target, source, count))


@dataclass
class Text:
    """What a sequence's rows should hold, one run of bytes a group of layers."""

    tokens: list[int] = field(default_factory=list)
    digests: list[bytes] = field(default_factory=list)
    rows: list[bytearray] = field(default_factory=list)


class WritingExecutor(SimExecutor):
    """Writes rows through `driver` and checks them; takes the time that MACHINE says.

    `sequence` finds the engine's sequence.  Without `keeps` (the tier keeps no bytes) nothing is
    written.  The work is `stream`'s.
    """

    def __init__(
        self,
        clock: VirtualClock,
        driver: FaultyDriver,
        layers: int,
        keeps: bool,
        stream: FakeStream,
    ) -> None:
        nothing = Coefficients.even(step=0.0)
        super().__init__(clock, nothing, Activations(256, 256), Telltale(VOCAB), layers)
        self._driver = driver
        self._keeps = keeps
        self._stream = stream
        self._texts: dict[int, Text] = {}
        self.arena: KvArena
        self.sequence: Callable[[int], EngineSequence]
        self.is_lost: Callable[[int], bool] = lambda seq_id: False
        self.tell: Callable[[Sequence[int]], Sequence[int]] = lambda tokens: tokens

    def launch(self, plan: StepPlan, ferry: Ferry | None = None) -> Landed:
        seconds = MACHINE.seconds(plan.load)
        for layer in range(self._layers):
            if ferry is not None:
                ferry.enter(layer)
            if self._keeps:
                for step in plan.steps:
                    self._compute(layer, step)
            self._clock.advance(seconds / self._layers)
            if ferry is not None:
                ferry.leave(layer)
        return super().launch(plan)

    def _compute(self, layer: int, step: SequenceStep) -> None:
        rows = self._text(step).rows[layer // self.arena.layers_per_group]
        # What a step makes of a sequence that is lost will be thrown away.
        looks = not self.is_lost(step.seq_id)
        self._stream.launch(partial(self._work, layer, step, rows, looks))

    def _work(self, layer: int, step: SequenceStep, rows: bytearray, looks: bool) -> None:
        try:
            self._write(layer, step, rows, looks)
        except DriverError as error:
            raise AssertionError(f"{step.seq_id}: layer {layer}") from error

    def _write(self, layer: int, step: SequenceStep, rows: bytearray, looks: bool) -> None:
        size = self.arena.layer.token_bytes
        group, inner = divmod(layer, self.arena.layers_per_group)
        if looks and inner == 0:
            self._look(step, group, rows, step.start)
        for token in range(step.start, step.length):
            row = rows[token * self.arena.row_bytes :][inner * size : (inner + 1) * size]
            self._driver.copy_in(self._address(layer, step.kv.row(token)), bytes(row))
        if looks and inner == self.arena.layers_per_group - 1:
            self._look(step, group, rows, step.length)

    def _look(self, step: SequenceStep, group: int, rows: bytearray, stop: int) -> None:
        """All rows of one group, up to token `stop`, hold what they should."""
        width, done = self.arena.row_bytes, 0
        for first, last in step.kv.runs(0, stop):
            base = self._address(group * self.arena.layers_per_group, first)
            found = self._driver.copy_out(base, (last - first) * width)
            meant = bytes(rows[done * width : (done + last - first) * width])
            if found != meant:
                starts = range(0, len(meant), width)
                wrong = [at // width for at in starts if found[at:][:width] != meant[at:][:width]]
                raise AssertionError(f"{step.seq_id}: group {group}, tokens {wrong} after {done}")
            done += last - first

    def _address(self, layer: int, row: int) -> int:
        arena = self.arena
        return arena.address + arena.layer_offset(layer) + row * arena.row_bytes

    def _text(self, step: SequenceStep) -> Text:
        sequence = self.sequence(step.seq_id)
        text = self._texts.get(step.seq_id)
        if text is None:
            groups = self._layers // self.arena.layers_per_group
            text = self._texts[step.seq_id] = Text(rows=[bytearray() for _ in range(groups)])
        before = text.digests[-1] if text.digests else (sequence.request.cache_salt or "").encode()
        size = self.arena.layer.token_bytes
        for token in self.tell(sequence.tokens[len(text.digests) :]):
            before = blake2b(before + array("q", [token]).tobytes(), digest_size=16).digest()
            text.digests.append(before)
            for layer in range(self._layers):
                once = blake2b(before + bytes([layer])).digest()
                text.rows[layer // self.arena.layers_per_group] += (once * size)[:size]
        return text


@dataclass(frozen=True)
class TierKind:
    """`base` bytes of a tier, below `top` bytes of memory; `rate` in bytes a second.

    One that does not keep bytes is for accounts alone.
    """

    base: int
    top: int = 0
    rate: float = 1e8
    keeps: bool = True


@dataclass
class Asked:
    """A request that was submitted."""

    prompt: list[int]
    count: int
    choices: int


class ParkedBench:
    """An engine with a tier, what was asked of it, and what it has said.

    With a `stream`, memory is real, rows are its work, and threads copy.
    """

    def __init__(
        self,
        memory: MemoryConfig,
        limits: SchedulerConfig,
        tier: TierKind,
        budget: int = 512 * KIB,
        layers: Sequence[LayerSpec] = LAYERS,
        layers_per_group: int = 1,
        ahead: bool = False,
        stream: FakeStream | None = None,
    ) -> None:
        chunk = memory.chunk_bytes or 4 * KIB
        self.stream = FakeStream(Pace.NOW) if stream is None else stream
        self.fence = None if stream is None else stream.fence
        self.driver = (
            FaultyDriver(NullDriver(budget, chunk))
            if stream is None
            else LaggingDriver(HostDriver(budget, chunk), stream)
        )
        unmaps = DeferredUnmaps(self.driver, self.fence, not memory.uses(ElasticPart.DEFER))
        self.pool = ChunkPool(self.driver, budget, unmaps)
        self.clock = VirtualClock()
        self.stores: list[FaultyStore] = []
        self.tiers = self._tiers(tier)
        pinned = len(layers) // layers_per_group * chunk
        with patch.object(assembly, "most_pinned", lambda token_bytes, layered: pinned):
            self.memory = assembly.assemble_memory(
                self.pool, layers, memory, limits, tiers=self.tiers
            )
        self.executor = WritingExecutor(
            self.clock, self.driver, len(layers), tier.keeps, self.stream
        )
        self.executor.arena = self.memory.kv.arena
        self.executor.is_lost = self._is_lost
        cost = StepCost(prior=MACHINE)
        flown: Executor = self.executor
        if ahead:
            flown = flying = Ahead(self.executor)
            self.executor.tell = flying.tell
        self.engine = Engine(limits, self.memory, flown, self.clock, cost=cost)
        self.executor.sequence = self.engine._sequences.__getitem__
        self.most = self.pool.total
        self.asked: dict[str, Asked] = {}
        self.tokens: dict[tuple[str, int], list[int]] = {}
        self.ended: dict[tuple[str, int], str] = {}
        self.gone: set[str] = set()
        self.waits = self.idle = 0
        self._kv_wait = self.memory.kv.wait
        self.memory.kv.wait = self._wait  # type: ignore[method-assign]

    def _tiers(self, tier: TierKind) -> Tiers:
        access = DriverAccess(self.driver)
        copier: Copier = TimedCopier(self.clock, self.clock.advance, tier.rate)
        if self.fence is not None:
            copier = ThreadCopier()
        if not tier.keeps:
            return Tiers(VoidStore(tier.base, tier.rate, PIECE), access, copier)
        self.stores = [FaultyStore(size, access) for size in (tier.base, tier.top) if size]
        top = self.stores[1] if tier.top else None
        return Tiers(self.stores[0], access, copier, top, self.fence)

    @property
    def layered(self) -> LayeredLot[object] | None:
        below = self.memory.kv._below
        assert below is not None
        return below.layers

    def _is_lost(self, seq_id: int) -> bool:
        layered = self.layered
        return layered is not None and layered.where(seq_id) is Whereabouts.LOST

    def _wait(self) -> bool:
        self.waits += 1
        assert self.waits < 500, "waiting for ever"
        return self._kv_wait()

    @property
    def least(self) -> int:
        """The smallest total with which one sequence of the whole context can always run."""
        step = self.executor.activation_bytes(smallest_step(CONTEXT, gathers=True))
        room = ceil_div(step, self.pool.chunk_bytes)
        if self.memory.config.mode is MemoryMode.STATIC:
            room = self.pool.ledger.reach("activations")
        return room + self.memory.kv.chunks(CONTEXT)

    def submit(
        self,
        prompt: list[int],
        count: int,
        choices: int = 1,
        priority: int = 0,
        salt: str | None = None,
        objectives: Objectives | None = None,
    ) -> str:
        name = f"r{len(self.asked)}"
        self.asked[name] = Asked(prompt, count, choices)
        params = SamplingParams(max_tokens=count, seed=0, n=choices)
        self.engine.submit(
            Request(
                request_id=name,
                prompt=tuple(prompt),
                params=params,
                arrival=self.clock.now(),
                priority=priority,
                objectives=objectives,
                cache_salt=salt,
            )
        )
        return name

    def abort(self, name: str) -> None:
        self.gone.add(name)
        self.engine.abort(name)

    def step(self) -> None:
        self.waits = 0
        started = self.clock.now()
        for news in self.engine.step():
            key = (news.request_id, news.index)
            assert key not in self.ended, news
            if news.token is not None:
                self.tokens.setdefault(key, []).append(news.token)
            if news.finish_reason is not None:
                self.ended[key] = news.finish_reason.value
        self.engine.check()
        self.tiers.check()
        if self.clock.now() > started:
            self.idle = 0
            return
        self.idle += 1
        assert self.idle < 20 or not self.engine.has_work, self.engine.snapshot()
        self.clock.advance(1e-3)

    def drain(self, limit: int = 3000, refused: bool = False) -> None:
        """Step until all is done; nothing ever stands still unless a driver has refused."""
        for _ in range(limit):
            if not self.engine.has_work:
                break
            self.step()
            assert refused or self.engine.obstacle is None, self.engine.snapshot()
        assert not self.engine.has_work, self.engine.snapshot()
        for name, asked in self.asked.items():
            for index in range(asked.choices):
                got = self.tokens.get((name, index), [])
                meant = expected(asked.prompt, asked.count, seed=index)
                if name in self.gone:
                    assert got == meant[: len(got)], (name, index)
                else:
                    assert got == meant, (name, index)
                assert self.ended[name, index] in (
                    ("length", "abort") if name in self.gone else ("length",)
                )
        self.engine.check()

    def end(self) -> None:
        """Whatever was held is free again, above and below."""
        self.stream.drain()
        self.engine.dispose()
        self.tiers.poll()
        self.tiers.check()
        assert self.pool.free == self.pool.total, self.pool.snapshot()
        assert self.tiers.used == 0, self.tiers.used
        self.pool.resize(self.most)
        self.pool.trim()
        self.pool.check()
        assert self.driver.physical_bytes() == 0
        self.engine.close()
