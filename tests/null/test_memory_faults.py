"""Every operation of pool and virtual tensor, with every driver call it makes refused in turn."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from faulty import KINDS, FaultyDriver
from test_driver import MAKERS

from ellm.core.errors import DriverError
from ellm.memory.pool import ChunkPool
from ellm.memory.virtual import VirtualTensor

TOTAL = 14


class Scene:
    """Three tensors, one of them with holes, one sharing; warm chunks in two runs.

    written  ██░█░█░░░░      shared  ██░░░░░░░░      empty  ░░░░░░░░░░
    """

    def __init__(self, maker: str) -> None:
        self.driver = FaultyDriver(MAKERS[maker]())
        size = self.size = self.driver.chunk_bytes
        self.pool = ChunkPool(self.driver, TOTAL * size)
        span = self.driver.reserve(30)
        self.written, self.shared, self.empty = (
            VirtualTensor(self.pool, "kv", span, first, 10) for first in (0, 10, 20)
        )
        self.written.grow(8 * size)
        for slot in range(8):
            self.driver.copy_in(self.written.address + slot * size, b"slot %d" % slot)
        for slot in (2, 4, 6, 7):
            self.written.punch(slot * size, (slot + 1) * size)
        self.shared.share(self.written, 2)

    def state(self) -> tuple[object, ...]:
        """Everything that a refused operation must leave as it was."""
        self.pool.check()
        tensors = (self.written, self.shared, self.empty)
        maps = []
        for tensor in tensors:
            tensor.check()
            holes = [s for s in range(10) if tensor.missing(s * self.size, (s + 1) * self.size)]
            for slot in set(range(10)) - set(holes):
                self.driver.copy_out(tensor.address + slot * self.size, self.size)
            for slot in holes:
                with pytest.raises(DriverError):
                    self.driver.copy_out(tensor.address + slot * self.size, 1)
            maps.append((tensor.mapped, holes))
        held = self.pool.held("kv")
        return maps, held, self.pool.free, self.pool.warm, self.contents()

    def contents(self) -> list[bytes]:
        """What was written into the two slots that no operation here gives up."""
        return [self.driver.copy_out(self.written.address + s * self.size, 6) for s in (0, 1)]

    def end(self) -> None:
        for tensor in (self.written, self.shared, self.empty):
            tensor.clear()
        weights = self.pool.held("weights")
        assert self.pool.free == TOTAL - weights
        self.pool.trim()
        assert self.driver.physical_bytes() == weights * self.size
        self.driver.close()


OPERATIONS: dict[str, Callable[[Scene], object]] = {
    "grow over holes": lambda s: s.written.grow(10 * s.size),
    "cover a hole": lambda s: s.written.cover(2 * s.size, 3 * s.size),
    "cover with new chunks": lambda s: s.empty.grow(9 * s.size),
    "share": lambda s: s.empty.share(s.written, 2),
    "take": lambda s: s.pool.take("weights", 9),
    "trim": lambda s: s.pool.trim(),
    "reserve": lambda s: s.driver.reserve(2),
}


def refusals(maker: str, action: Callable[[Scene], object]) -> dict[str, int]:
    """How many calls of each kind the operation makes when nothing is refused."""
    made = {}
    for kind in KINDS:
        scene = Scene(maker)
        scene.driver.arm(kind, 1000)
        action(scene)
        made[kind] = 1000 - scene.driver.left
        scene.driver.close()
    return made


@pytest.mark.parametrize("maker", MAKERS)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_refused_call_leaves_everything_as_it_was(operation: str, maker: str) -> None:
    action = OPERATIONS[operation]
    made = refusals(maker, action)
    assert sum(made.values()), "the operation never asks the driver"
    for kind, calls in made.items():
        for at in range(1, calls + 1):
            scene = Scene(maker)
            before = scene.state()
            scene.driver.arm(kind, at)
            if kind == "create" or operation == "trim":
                assert not action(scene)
                assert "refused by the test" in str(scene.pool.refusal)
            else:
                with pytest.raises(DriverError, match="refused by the test"):
                    action(scene)
            assert not scene.driver.armed
            after = scene.state()
            # A refused map may leave new chunks warm, which is all that may differ.
            assert after[:3] == before[:3]
            assert after[4] == before[4]
            action(scene)
            scene.state()
            scene.end()


@pytest.mark.parametrize("maker", MAKERS)
@pytest.mark.parametrize("at", [1, 2, 3])
def test_a_refused_unmap_takes_nothing_back_from_who_gave_up(at: int, maker: str) -> None:
    scene = Scene(maker)
    scene.driver.arm("unmap", at)
    assert scene.written.shrink(0) == 2, "two of its four chunks are shared"
    assert (scene.written.mapped, len(scene.pool.unmaps)) == (0, {1: 2, 2: 1, 3: 1}[at])
    scene.written.check()
    scene.pool.check()
    assert scene.driver.copy_out(scene.shared.address + scene.size, 6) == b"slot 1"
    assert scene.written.grow(2 * scene.size), "what waits is unmapped first"
    scene.pool.unmaps.flush()
    scene.state()
    scene.end()


@pytest.mark.parametrize("maker", MAKERS)
def test_a_rollback_that_is_refused_too_keeps_the_books(maker: str) -> None:
    scene = Scene(maker)
    scene.driver.arm("map", 2)
    refuse_map = scene.driver._pass

    def then_refuse_unmap(kind: str) -> None:
        try:
            refuse_map(kind)
        except DriverError:
            if kind == "map":
                scene.driver.arm("unmap", 1)
            raise

    scene.driver._pass = then_refuse_unmap  # type: ignore[method-assign]
    with pytest.raises(DriverError, match="map refused"):
        scene.written.grow(8 * scene.size)
    assert (scene.written.mapped, len(scene.pool.unmaps)) == (4, 1)
    scene.written.check()
    scene.pool.check()
    scene.end()
