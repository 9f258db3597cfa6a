"""The stitching allocator against a naive model, under random use, streams and refusals.

The model knows nothing of blocks, stitches or fences: it stamps every 512 bytes of what it was
given and looks whether the stamps are still there, remembers which physical bytes each stream has
freed and how far each stream has got, and counts the chunks under live bytes.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from faulty import FaultyDriver
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from ellm.core.errors import DriverError
from ellm.core.units import ceil_div
from ellm.memory.blocks import GRAIN, Block, BlockState
from ellm.memory.driver import Chunk, Span
from ellm.memory.drivers.null import NullDriver
from ellm.memory.fragments import body, gather
from ellm.memory.pool import ChunkPool
from ellm.memory.stitching import StitchingAllocator

CHUNK = 8 * GRAIN
TOTAL = 12
STREAMS = (0, 1, 2)
sizes = (
    st.integers(1, 2 * CHUNK) | st.integers(CHUNK, 4 * CHUNK) | st.integers(1, TOTAL * CHUNK + 1)
)
streams = st.sampled_from((0, 0, 0, 0, 1, 2))


@dataclass(eq=False)
class Mark:
    """A fence of the test: passed when its stream has got as far as `at`."""

    queue: Queues
    stream: int
    at: int

    def passed(self) -> bool:
        return self.queue.done[self.stream] >= self.at

    def wait(self) -> None:
        self.queue.done[self.stream] = max(self.queue.done[self.stream], self.at)


class Queues:
    """How much work was queued on every stream, and how much of it is done."""

    def __init__(self) -> None:
        self.queued = dict.fromkeys(STREAMS, 0)
        self.done = dict.fromkeys(STREAMS, 0)

    def fence(self, stream: int) -> Mark:
        return Mark(self, stream, self.queued[stream])


@dataclass(eq=False)
class Live:
    address: int
    size: int
    stream: int
    stamp: bytes
    places: list[tuple[Chunk, int]]
    users: set[int] = field(default_factory=set)


class WatchedDriver(FaultyDriver):
    """Refuses nothing of its own, but knows what must not be unmapped yet."""

    def __init__(self, machine: StitchingMachine) -> None:
        self.null = NullDriver(TOTAL * CHUNK, CHUNK)
        super().__init__(self.null)
        self.machine = machine

    def unmap(self, span: Span, slot: int, count: int) -> None:
        start = span.address + slot * CHUNK
        stop = start + count * CHUNK
        for live in self.machine.live:
            assert live.address + live.size <= start or stop <= live.address, "unmapped in use"
        for address, size, stream, at in self.machine.freed:
            if address < stop and start < address + size:
                assert self.machine.queues.done[stream] >= at, "unmapped too early"
        super().unmap(span, slot, count)

    def places(self, address: int, size: int) -> list[tuple[Chunk, int]]:
        """The physical grains behind an address range."""
        grains = range(0, ceil_div(size, GRAIN) * GRAIN, GRAIN)
        found = [self.null._mappings.resolve(address + at, GRAIN)[0] for at in grains]
        return [(chunk, offset) for chunk, offset, _ in found]


class StitchingMachine(RuleBasedStateMachine):
    @initialize(fenced=st.booleans(), limit=st.sampled_from((None, 0, 5)))
    def build(self, fenced: bool, limit: int | None) -> None:
        self.live: list[Live] = []
        # (address, size, stream, work queued then) of what was freed.
        self.freed: list[tuple[int, int, int, int]] = []
        # Physical bytes: whose work used them last, and how far each must have got.
        self.last: dict[tuple[Chunk, int], dict[int, int]] = {}
        self.queues = Queues()
        self.fenced = fenced
        self.driver = WatchedDriver(self)
        self.pool = ChunkPool(self.driver, TOTAL * CHUNK)
        self.allocator = StitchingAllocator(
            self.pool,
            "train",
            fence=self.queues.fence if fenced else None,
            stitched_slots=limit,
        )
        self.elsewhere: list[Chunk] = []
        self.stamps = 0

    def teardown(self) -> None:
        if not hasattr(self, "allocator"):
            return
        self.driver.kind = ""
        while self.live:
            self.free(0)
        self.allocator.close()
        self.pool.drop("weights", self.elsewhere)
        assert self.pool.free == TOTAL
        self.pool.trim()
        assert not self.driver.null._mappings.spans
        self.driver.close()

    @rule(size=sizes, stream=streams)
    def allocate(self, size: int, stream: int) -> None:
        armed = self.driver.armed
        busy = {chunk for live in self.live for chunk, _ in live.places}
        room = TOTAL - len(self.elsewhere) - len(busy)
        address = self.allocator.allocate(size, stream)
        refused = armed and not self.driver.armed
        if address is None:
            assert refused or ceil_div(size, CHUNK) > room, (size, room)
            assert not refused or "refused by the test" in str(self.allocator.refusal)
            return
        places = self.driver.places(address, size)
        assert len(set(places)) == len(places)
        for place in places:
            for other, at in self.last.get(place, {}).items():
                if self.fenced and other != stream:
                    assert self.queues.done[other] >= at, "another stream may still use it"
        self.stamps += 1
        live = Live(address, size, stream, b"%8d" % self.stamps, places)
        self.live.append(live)
        for at in range(0, len(places) * GRAIN, GRAIN):
            self.driver.copy_in(address + at, live.stamp)

    @rule(size=st.integers(CHUNK // 2, 2 * CHUNK), count=st.integers(2, 6), stream=streams)
    def comb(self, size: int, count: int, stream: int) -> None:
        """Leave holes between allocations: what stitching is for."""
        before = len(self.live)
        for _ in range(count):
            self.allocate(size, stream)
        for index in range(len(self.live) - 1, before - 1, -2):
            self.free(index)

    @precondition(lambda self: self.live)
    @rule(index=st.integers(0, 1 << 16))
    def free(self, index: int) -> None:
        live = self.live.pop(index % len(self.live))
        queued = self.queues.queued if self.fenced else dict.fromkeys(STREAMS, 0)
        ends = {stream: queued[stream] for stream in (live.stream, *live.users)}
        self.last.update(dict.fromkeys(live.places, ends))
        self.freed += [(live.address, live.size, stream, at) for stream, at in ends.items()]
        self.allocator.free(live.address)

    @precondition(lambda self: self.live)
    @rule(index=st.integers(0, 1 << 16), stream=streams)
    def use_elsewhere(self, index: int, stream: int) -> None:
        live = self.live[index % len(self.live)]
        live.users.add(stream)
        self.allocator.note_use(live.address, stream)

    @rule(stream=st.sampled_from(STREAMS), finish=st.booleans())
    def work(self, stream: int, finish: bool) -> None:
        self.queues.queued[stream] += 1
        if finish:
            self.queues.done[stream] = self.queues.queued[stream]

    @rule()
    def trim(self) -> None:
        armed, held = self.driver.armed, self.pool.held("train")
        try:
            given = self.allocator.trim()
        except DriverError:
            assert armed
            assert not self.driver.armed
            return
        assert self.pool.held("train") == held - given
        busy = {chunk for live in self.live for chunk, _ in live.places}
        if not self.fenced and not self.allocator.stitches.slots:
            assert held - given == len(busy)

    @rule(count=st.integers(0, 4))
    def take_elsewhere(self, count: int) -> None:
        armed = self.driver.armed
        free = self.pool.free
        chunks = self.pool.take("weights", count)
        assert (chunks is not None) == (count <= free) or (armed and not self.driver.armed)
        self.elsewhere += chunks or []

    @rule(count=st.integers(0, 4))
    def drop_elsewhere(self, count: int) -> None:
        self.pool.drop("weights", self.elsewhere[:count])
        del self.elsewhere[:count]

    @precondition(lambda self: not self.driver.armed)
    @rule(
        kind=st.sampled_from(("reserve", "create", "map", "unmap", "release")),
        at=st.integers(1, 3),
    )
    def refuse(self, kind: str, at: int) -> None:
        self.driver.arm(kind, at)

    @invariant()
    def books_balance(self) -> None:
        if not hasattr(self, "allocator"):
            return
        self.allocator.check()
        self.pool.check()
        stats = self.allocator.stats
        lingering = stats.active - sum(live.size for live in self.live)
        assert lingering >= 0 if self.fenced else lingering == 0
        assert stats.reserved == self.pool.held("train") * CHUNK
        for live in self.live:
            assert self.allocator.size_of(live.address) == live.size
            assert self.driver.places(live.address, live.size) == live.places
            for at in range(0, len(live.places) * GRAIN, GRAIN):
                assert self.driver.copy_out(live.address + at, 8) == live.stamp


StitchingMachine.TestCase.settings = settings(max_examples=80, stateful_step_count=30)
TestStitching = StitchingMachine.TestCase


def allocator(chunks: int, **options: object) -> StitchingAllocator:
    pool = ChunkPool(NullDriver(chunks * CHUNK, CHUNK), chunks * CHUNK)
    return StitchingAllocator(pool, "train", **options)  # type: ignore[arg-type]


def take(memory: StitchingAllocator, size: int, stream: int = 0) -> int:
    address = memory.allocate(size, stream)
    memory.check()
    assert address is not None, size
    return address


def rungs(memory: StitchingAllocator) -> dict[str, int]:
    return {rung.value: count for rung, count in memory.stats.rungs.items()}


def test_every_case_of_the_paper_in_turn() -> None:
    """
    home     0    1    2    3    4    5    6    7
             ├ a ─┼─ b ┼─ c ┼─ d ┼─ e ┤              b and d freed, then asked for as one
    """
    memory = allocator(8)
    a, b, c, d, e = (take(memory, CHUNK) for _ in range(5))
    assert rungs(memory) == {"grow": 5}
    memory.free(b)
    assert take(memory, CHUNK) == b  # S1
    memory.free(b)
    memory.free(d)
    both = take(memory, 2 * CHUNK)  # S3
    assert memory.stats.stitches_made == 1
    memory.free(both)
    assert take(memory, 2 * CHUNK) == both  # S1, without a mapping made
    memory.free(both)
    half = take(memory, CHUNK * 3 // 4)  # S2: what is left is a block of its own
    assert half == b
    assert take(memory, 3 * CHUNK) not in (a, b, c, d, e)  # S4: d and two new chunks
    assert memory.stats.reserved == 7 * CHUNK
    assert memory.allocate(3 * CHUNK) is None  # S5
    counted = {"grow": 6, "exact": 2, "stitch": 1, "split": 1, "none": 1}
    assert rungs(memory) == counted
    assert memory.stats.stitches_made == 2


def test_a_longer_idle_stitch_serves_from_its_beginning() -> None:
    memory = allocator(7)
    blocks = [take(memory, CHUNK) for _ in range(7)]
    for address in blocks[::2]:
        memory.free(address)
    long = take(memory, 4 * CHUNK)
    memory.free(long)
    last = take(memory, CHUNK * 3 // 4)
    memory.free(last)
    assert take(memory, 2 * CHUNK + 1) == long
    assert rungs(memory)["reuse"] == 1
    assert memory.stats.stitches_made == 1


def test_a_stitch_begins_in_the_middle_of_a_chunk() -> None:
    """
    chunks     0         1         2         3
    used       ├── a ──┤ ├── b ────┤
    asked            ├ lead ┤ and one new chunk: no chunk is opened for the rest
    """
    memory = allocator(4)
    first = take(memory, CHUNK * 3 // 4)
    second = take(memory, CHUNK)
    take(memory, CHUNK * 3 // 4)
    memory.free(second)
    assert memory.stats.reserved == 3 * CHUNK
    across = take(memory, CHUNK + CHUNK // 2)
    assert memory.stats.reserved == 4 * CHUNK
    memory.free(across)
    memory.free(first)


def test_small_allocations_share_a_chunk_and_give_it_back_whole() -> None:
    memory = allocator(2)
    many = [take(memory, 1) for _ in range(8)]
    assert memory.stats.reserved == CHUNK
    assert sorted(many) == [many[0] + GRAIN * index for index in range(8)]
    for address in many:
        memory.free(address)
    take(memory, 2 * CHUNK)
    assert memory.stats.reserved == 2 * CHUNK


def test_small_allocations_fill_what_larger_ones_left_over() -> None:
    memory = allocator(2)
    take(memory, CHUNK + CHUNK // 2 + 1)
    take(memory, GRAIN)
    assert memory.stats.reserved == 2 * CHUNK
    assert take(memory, 2 * GRAIN)


def test_another_stream_waits_for_the_fence() -> None:
    queues = Queues()
    memory = allocator(2, fence=queues.fence)
    first = take(memory, CHUNK, stream=0)
    queues.queued[0] += 1
    memory.free(first)
    second = take(memory, CHUNK, stream=1)
    assert second != first
    assert queues.done[0] == 0
    # Nothing else is left, so now it waits.
    assert take(memory, CHUNK, stream=1) == first
    assert queues.done[0] == 1


def test_what_another_stream_uses_too_is_kept_until_that_is_done() -> None:
    queues = Queues()
    memory = allocator(2, fence=queues.fence)
    first = take(memory, CHUNK)
    memory.note_use(first, 1)
    queues.queued[1] = 1
    memory.free(first)
    assert memory.stats.active == CHUNK
    second = take(memory, CHUNK)
    assert second != first
    # Nothing else is left, so now it waits.
    assert take(memory, CHUNK) == first
    assert queues.done[1] == 1


def test_its_own_stream_needs_no_fence() -> None:
    memory = allocator(1, fence=Queues().fence)
    first = take(memory, CHUNK, stream=2)
    memory.free(first)
    assert take(memory, CHUNK, stream=2) == first


def test_stitches_are_unmade_in_order_of_their_last_use() -> None:
    memory = allocator(8, stitched_slots=4)
    blocks = [take(memory, CHUNK) for _ in range(8)]

    def stitched(*indices: int) -> int:
        for index in indices:
            memory.free(blocks[index])
        address = take(memory, len(indices) * CHUNK)
        memory.free(address)
        for index in indices:
            blocks[index] = take(memory, CHUNK)
        return address

    old = stitched(0, 2)
    stitched(1, 3)
    assert memory.stitches.idle == 2
    assert stitched(0, 2) == old
    stitched(4, 6)
    assert memory.stitches.idle == 2
    assert memory.stitches.unmade == 1
    assert stitched(0, 2) == old


def test_fragmentation_is_measured_at_the_peaks() -> None:
    memory = allocator(4)
    assert memory.stats.fragmentation == 0.0
    address = take(memory, CHUNK * 3 // 2)
    memory.free(address)
    assert memory.stats.fragmentation == pytest.approx(1 - 1.5 / 2)


def test_trimming_leaves_only_chunks_in_use() -> None:
    memory = allocator(6)
    blocks = [take(memory, CHUNK) for _ in range(6)]
    for index in (0, 2, 4, 5):
        memory.free(blocks[index])
    stitch = take(memory, 3 * CHUNK)
    memory.free(stitch)
    assert memory.trim() == 4
    assert memory.stats.reserved == 2 * CHUNK
    assert memory.pool.free == 4
    assert memory.stitches.slots == 0
    memory.check()
    take(memory, 4 * CHUNK)


class Striped:
    """Chunks allocated one by one, every other one free; every driver call may be refused.

    home    ├free┼used┼free┼used┼free┼used┤
    """

    def __init__(self, chunks: int = 6, spare: int = 0, **options: object) -> None:
        self.driver = FaultyDriver(NullDriver((chunks + spare) * CHUNK, CHUNK))
        self.pool = ChunkPool(self.driver, (chunks + spare) * CHUNK)
        self.memory = StitchingAllocator(self.pool, "train", **options)  # type: ignore[arg-type]
        self.blocks = [take(self.memory, CHUNK) for _ in range(chunks)]
        for address in self.blocks[::2]:
            self.memory.free(address)

    @property
    def spans(self) -> int:
        assert isinstance(self.driver.inner, NullDriver)
        return len(self.driver.inner._mappings.spans)


@pytest.mark.parametrize("kind", ["reserve", "map"])
def test_a_refused_stitch_leaves_nothing_behind(kind: str) -> None:
    scene = Striped()
    scene.driver.arm(kind, 1)
    assert scene.memory.allocate(2 * CHUNK) is None
    assert "refused by the test" in str(scene.memory.refusal)
    scene.memory.check()
    assert scene.spans == 1
    take(scene.memory, 2 * CHUNK)


def test_a_refused_map_is_tried_again_without_the_idle_stitches() -> None:
    scene = Striped()
    scene.memory.free(take(scene.memory, 2 * CHUNK))
    scene.driver.arm("map", 1)
    take(scene.memory, 3 * CHUNK)
    assert scene.memory.stitches.idle == 0
    assert scene.spans == 2


@pytest.mark.parametrize("kind", ["create", "map"])
def test_refused_growth_takes_no_chunk(kind: str) -> None:
    scene = Striped(spare=2)
    held = scene.pool.held("train")
    scene.driver.arm(kind, 1)
    assert scene.memory.allocate(5 * CHUNK) is None
    assert scene.pool.held("train") == held
    scene.memory.check()
    scene.pool.check()
    take(scene.memory, 5 * CHUNK)


def test_a_span_that_was_not_released_is_released_at_the_end() -> None:
    scene = Striped(stitched_slots=0)
    scene.memory.free(take(scene.memory, 2 * CHUNK))
    scene.driver.arm("release", 1)
    scene.memory.free(take(scene.memory, 3 * CHUNK))
    assert scene.spans == 3
    for address in scene.blocks[1::2]:
        scene.memory.free(address)
    scene.memory.close()
    assert scene.spans == 0
    assert scene.pool.free == 6


def test_a_stitch_is_unmade_only_when_nothing_touches_it() -> None:
    queues = Queues()
    scene = Striped(fence=queues.fence, stitched_slots=0)
    queues.queued[0] += 1
    scene.memory.free(take(scene.memory, 2 * CHUNK))
    take(scene.memory, 3 * CHUNK)
    assert scene.memory.stitches.unmade == 0
    assert queues.done[0] == 0
    scene.driver.arm("map", 1)
    scene.memory.free(scene.blocks[1])
    scene.memory.free(scene.blocks[5])
    # The machine will map no more, so now it waits.
    take(scene.memory, 2 * CHUNK)
    assert scene.memory.stitches.unmade == 1
    assert queues.done[0] == 1


def test_trimming_spares_what_work_may_touch_or_a_stitch_in_use_covers() -> None:
    queues = Queues()
    scene = Striped(chunks=7, fence=queues.fence)
    memory = scene.memory
    long = take(memory, 4 * CHUNK)
    memory.free(long)
    queues.done[0] = queues.queued[0] = 1
    assert take(memory, 3 * CHUNK) == long
    # The fourth chunk is free, but seen through the stitch in use.
    assert memory.trim() == 0
    queues.queued[0] = 2
    memory.free(long)
    assert memory.trim() == 0
    queues.done[0] = 2
    assert memory.trim() == 4
    memory.check()


def test_joined_blocks_wait_for_the_later_of_both() -> None:
    queues = Queues()
    memory = allocator(2, fence=queues.fence)
    first, second = take(memory, CHUNK, stream=0), take(memory, CHUNK, stream=1)
    queues.queued[0] = 1
    memory.free(first)
    memory.free(second)
    # The second is handed to the first's stream and joined to it.
    assert memory.trim() == 0
    queues.done[0] = 1
    assert memory.trim() == 2


free_runs = st.lists(st.integers(1, 20), min_size=1, max_size=8)


@given(gaps=free_runs, runs=free_runs, need=st.integers(1, 60))
def test_pieces_are_free_and_in_order_and_few_chunks(
    gaps: list[int], runs: list[int], need: int
) -> None:
    blocks, at = [], 0
    for gap, run in zip(gaps, runs, strict=False):
        blocks.append(Block((at + gap) * GRAIN, (at + gap + run) * GRAIN, BlockState.FREE))
        at += gap + run
    pieces, missing = gather(blocks, need * GRAIN, CHUNK)
    whole = sum(last - first for first, last in (body(block, CHUNK) for block in blocks))
    if missing:
        assert not pieces
        assert whole < ceil_div(need * GRAIN, CHUNK)
        return
    assert sum(stop - start for start, stop in pieces) == need * GRAIN
    assert all(any(b.start <= s and e <= b.stop for b in blocks) for s, e in pieces)
    assert all(stop % CHUNK == 0 for _, stop in pieces[:-1])
    assert all(start % CHUNK == 0 for start, _ in pieces[1:])
    covered = [grain for start, stop in pieces for grain in range(start, stop, GRAIN)]
    assert len(set(covered)) == len(covered)
