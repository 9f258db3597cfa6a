"""Chunks that are free before their old mapping is gone: with fences, faults, and few mappings."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from faulty import FaultyDriver

from ellm.core.errors import DriverError
from ellm.memory.drivers.host import HostDriver
from ellm.memory.drivers.null import NullDriver
from ellm.memory.pool import ChunkPool
from ellm.memory.unmapping import DeferredUnmaps
from ellm.memory.virtual import VirtualTensor

CHUNK = 1 << 16
TOTAL = 12
SLOTS = 10


@dataclass(eq=False)
class Moment:
    """A fence that has passed when the test, or whoever waits for it, says so."""

    done: bool = False
    waited: int = 0

    def passed(self) -> bool:
        return self.done

    def wait(self) -> None:
        self.waited += 1
        self.done = True


class Scene:
    """Two tensors of a span each, over a driver that may refuse, with unmapping put off."""

    def __init__(self, driver: NullDriver | HostDriver | None = None, fenced: bool = False) -> None:
        self.driver = FaultyDriver(driver or NullDriver(TOTAL * CHUNK, CHUNK))
        self.moments: list[Moment] = []
        self.unmaps = DeferredUnmaps(self.driver, self.fence if fenced else None)
        self.pool = ChunkPool(self.driver, TOTAL * CHUNK, self.unmaps)
        self.old, self.new = (
            VirtualTensor(self.pool, "kv", self.driver.reserve(SLOTS)) for _ in range(2)
        )

    def fence(self) -> Moment:
        self.moments.append(Moment())
        return self.moments[-1]

    def write(self, tensor: VirtualTensor, slot: int, text: bytes) -> None:
        self.driver.copy_in(tensor.address + slot * CHUNK, text)

    def read(self, tensor: VirtualTensor, slot: int, count: int = 4) -> bytes:
        return self.driver.copy_out(tensor.address + slot * CHUNK, count)

    def check(self) -> None:
        self.pool.check()
        for tensor in (self.old, self.new):
            tensor.check()


@pytest.fixture
def scene() -> Scene:
    return Scene()


@pytest.fixture
def fenced() -> Scene:
    return Scene(fenced=True)


@pytest.fixture
def tight() -> Iterator[Scene]:
    """Over host memory that allows nine kernel mappings."""
    scene = Scene(HostDriver(TOTAL * CHUNK, CHUNK, map_limit=9))
    yield scene
    scene.driver.close()


def test_a_chunk_given_back_is_free_at_once_and_unmapped_later(scene: Scene) -> None:
    scene.old.grow(5 * CHUNK)
    scene.write(scene.old, 3, b"kept")
    assert scene.old.shrink(2 * CHUNK) == 3
    assert (scene.old.mapped, scene.pool.free, scene.pool.warm, len(scene.unmaps)) == (2, 10, 3, 3)
    assert scene.read(scene.old, 3) == b"kept"
    scene.check()
    assert scene.unmaps.flush() == 3
    assert len(scene.unmaps) == 0
    with pytest.raises(DriverError):
        scene.read(scene.old, 3)
    assert scene.unmaps.flush() == 0


def test_a_chunk_may_be_mapped_twice_while_its_old_slot_waits(scene: Scene) -> None:
    scene.old.grow(2 * CHUNK)
    scene.old.clear()
    scene.new.grow(2 * CHUNK)
    scene.write(scene.new, 1, b"both")
    assert scene.read(scene.old, 1) == b"both"
    assert (scene.pool.held("kv"), len(scene.unmaps)) == (2, 2)
    scene.check()
    scene.unmaps.flush()
    assert scene.read(scene.new, 1) == b"both"
    with pytest.raises(DriverError):
        scene.read(scene.old, 0)


def test_a_waiting_slot_is_settled_before_it_is_mapped_again(scene: Scene) -> None:
    scene.old.grow(6 * CHUNK)
    scene.old.clear()
    assert scene.old.cover(CHUNK, 3 * CHUNK)
    assert len(scene.unmaps) == 4
    scene.write(scene.old, 1, b"mine")
    scene.new.grow(2 * CHUNK)
    scene.unmaps.flush()
    assert scene.read(scene.old, 1) == b"mine"
    scene.check()


def test_sharing_settles_the_slots_it_maps_too(scene: Scene) -> None:
    scene.new.grow(3 * CHUNK)
    scene.new.clear()
    scene.old.grow(2 * CHUNK)
    scene.write(scene.old, 1, b"read")
    scene.new.share(scene.old, 2)
    assert len(scene.unmaps) == 1
    assert scene.read(scene.new, 1) == b"read"
    assert scene.old.shrink(0) == 0
    scene.unmaps.flush()
    assert scene.read(scene.new, 1) == b"read"
    scene.check()


def test_work_that_may_still_read_holds_its_slots_back(fenced: Scene) -> None:
    fenced.old.grow(5 * CHUNK)
    fenced.old.shrink(3 * CHUNK)
    fenced.old.shrink(CHUNK)
    first, second = fenced.moments
    assert fenced.unmaps.flush(wait=False) == 0
    second.done = True
    assert fenced.unmaps.flush(wait=False) == 2
    assert (first.waited, len(fenced.unmaps)) == (0, 2)
    assert fenced.unmaps.flush() == 2
    assert (first.waited, second.waited) == (1, 1)
    assert len(fenced.unmaps) == 0


def test_whoever_needs_a_slot_waits_for_its_fence_alone(fenced: Scene) -> None:
    fenced.old.grow(4 * CHUNK)
    fenced.old.shrink(2 * CHUNK)
    fenced.old.shrink(0)
    fenced.old.grow(CHUNK)
    assert [moment.waited for moment in fenced.moments] == [0, 1]
    assert len(fenced.unmaps) == 3
    fenced.check()


def test_giving_memory_back_to_the_machine_waits_for_all(fenced: Scene) -> None:
    fenced.old.grow(4 * CHUNK)
    fenced.old.shrink(CHUNK)
    assert fenced.pool.trim() == 3 * CHUNK
    assert fenced.moments[0].done
    assert fenced.driver.physical_bytes() == CHUNK
    fenced.check()


def test_a_lowered_budget_takes_waiting_chunks_first(fenced: Scene) -> None:
    fenced.old.grow(6 * CHUNK)
    fenced.old.shrink(2 * CHUNK)
    fenced.pool.resize(4)
    assert (fenced.pool.free, fenced.pool.warm, len(fenced.unmaps)) == (2, 2, 0)
    fenced.pool.resize(1)
    assert (fenced.pool.free, fenced.pool.warm) == (-1, 0)
    fenced.check()
    fenced.old.shrink(CHUNK)
    assert (fenced.pool.free, fenced.pool.warm) == (0, 0)
    fenced.check()
    fenced.pool.resize(TOTAL)
    assert fenced.new.grow(SLOTS * CHUNK)
    fenced.check()


def test_at_the_limit_on_mappings_what_waits_is_unmapped_first(tight: Scene) -> None:
    """Every second slot of one tensor is a kernel mapping each, and so is the hole beside it."""
    for slot in (0, 2, 4, 6):
        tight.old.cover(slot * CHUNK, (slot + 1) * CHUNK)
    tight.write(tight.old, 0, b"mine")
    tight.old.punch(2 * CHUNK, 7 * CHUNK)
    assert len(tight.unmaps) == 3
    for slot in (1, 3, 5):
        assert tight.new.cover(slot * CHUNK, (slot + 1) * CHUNK)
    assert len(tight.unmaps) == 0, "the limit should have been reached"
    assert tight.read(tight.old, 0) == b"mine"
    tight.check()
    # Nothing waits any more, so that the next refusal is the driver's last word.
    with pytest.raises(DriverError, match="kernel mappings"):
        tight.old.cover(3 * CHUNK, 4 * CHUNK)
    tight.check()


def test_a_refused_map_is_tried_again_once_others_have_been_unmapped(scene: Scene) -> None:
    scene.old.grow(3 * CHUNK)
    scene.old.clear()
    scene.driver.arm("map", 1)
    assert scene.new.grow(2 * CHUNK)
    assert len(scene.unmaps) == 0
    scene.driver.arm("map", 1)
    with pytest.raises(DriverError):
        scene.new.grow(4 * CHUNK)
    assert (scene.new.mapped, scene.pool.held("kv")) == (2, 2)
    scene.check()


@pytest.mark.parametrize("at", [1, 2, 3])
def test_a_refused_unmap_leaves_the_rest_waiting(scene: Scene, at: int) -> None:
    scene.old.grow(7 * CHUNK)
    for slot in (1, 3, 5):
        scene.old.punch(slot * CHUNK, (slot + 1) * CHUNK)
    scene.driver.arm("unmap", at)
    with pytest.raises(DriverError):
        scene.unmaps.flush()
    assert len(scene.unmaps) == 4 - at
    scene.check()
    assert scene.unmaps.flush() == 4 - at
    assert scene.old.grow(7 * CHUNK)
    scene.check()


def test_a_slot_that_cannot_be_settled_is_not_mapped(scene: Scene) -> None:
    scene.new.grow(2 * CHUNK)
    scene.old.grow(4 * CHUNK)
    scene.old.shrink(CHUNK)
    scene.driver.arm("unmap", 1)
    with pytest.raises(DriverError):
        scene.old.grow(3 * CHUNK)
    assert (scene.old.mapped, scene.pool.held("kv"), len(scene.unmaps)) == (1, 3, 3)
    scene.check()
    assert scene.old.grow(3 * CHUNK)
    scene.check()


def test_a_refused_unmap_keeps_warm_chunks_from_being_destroyed(scene: Scene) -> None:
    scene.old.grow(4 * CHUNK)
    scene.old.clear()
    scene.driver.arm("unmap", 1)
    assert scene.pool.trim() == 0
    assert "refused by the test" in str(scene.pool.refusal)
    assert (scene.pool.warm, len(scene.unmaps)) == (4, 4)
    scene.check()
    assert scene.pool.trim() == 4 * CHUNK
