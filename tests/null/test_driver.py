"""What every driver promises.  A new driver is done when it passes this file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise

import pytest
from fake_cuda import FakeCuda

from ellm.core.errors import DriverError
from ellm.memory.driver import Chunk, Driver, Span
from ellm.memory.drivers.cuda import CudaDriver
from ellm.memory.drivers.host import HostDriver
from ellm.memory.drivers.null import NullDriver

CHUNK = 1 << 16
ROOM = 16

MAKERS: dict[str, Callable[[], Driver]] = {
    "null": lambda: NullDriver(ROOM * CHUNK, CHUNK),
    "host": lambda: HostDriver(ROOM * CHUNK, CHUNK),
    "cuda": lambda: CudaDriver(bindings=FakeCuda(ROOM * CHUNK, CHUNK)),
}


@pytest.fixture(params=MAKERS)
def driver(request: pytest.FixtureRequest) -> Iterator[Driver]:
    made = MAKERS[request.param]()
    yield made
    made.close()


def address(driver: Driver, span: Span, slot: int) -> int:
    return span.address + slot * driver.chunk_bytes


def write(driver: Driver, span: Span, slot: int, text: bytes) -> None:
    driver.copy_in(address(driver, span, slot), text)


def read(driver: Driver, span: Span, slot: int, count: int) -> bytes:
    return driver.copy_out(address(driver, span, slot), count)


def test_only_chunks_take_memory(driver: Driver) -> None:
    span = driver.reserve(1 << 20)
    assert span.slots == 1 << 20
    assert driver.physical_bytes() == 0
    chunks = driver.create(5)
    assert len(set(chunks)) == 5
    assert driver.physical_bytes() == 5 * driver.chunk_bytes
    driver.map(span, 3, chunks)
    assert driver.physical_bytes() == 5 * driver.chunk_bytes
    driver.unmap(span, 3, 5)
    assert driver.physical_bytes() == 5 * driver.chunk_bytes
    driver.destroy(chunks[1:3])
    assert driver.physical_bytes() == 3 * driver.chunk_bytes
    driver.destroy([chunks[4], chunks[0], chunks[3]])
    assert driver.physical_bytes() == 0


def test_new_chunks_are_neighbours_where_possible(driver: Driver) -> None:
    chunks = driver.create(6)
    assert chunks == list(range(chunks[0], chunks[0] + 6))


def test_spans_do_not_overlap(driver: Driver) -> None:
    spans = sorted((driver.reserve(slots) for slots in (3, 1, 7)), key=lambda span: span.address)
    for left, right in pairwise(spans):
        assert left.address + left.slots * driver.chunk_bytes <= right.address


def test_mapped_slots_are_one_range_of_bytes(driver: Driver) -> None:
    span = driver.reserve(4)
    first, second, third = driver.create(3)
    driver.map(span, 1, [third, first])
    driver.map(span, 3, [second])
    start = address(driver, span, 1)
    data = bytes(range(251)) * (3 * driver.chunk_bytes // 251)
    driver.copy_in(start, data)
    assert driver.copy_out(start, len(data)) == data
    middle = driver.chunk_bytes - 3
    assert driver.copy_out(start + middle, 6) == data[middle : middle + 6]


def test_a_chunk_mapped_twice_is_one_memory(driver: Driver) -> None:
    near, far = driver.reserve(4), driver.reserve(2)
    chunk = driver.create(1)
    driver.map(near, 0, chunk)
    driver.map(near, 3, chunk)
    driver.map(far, 1, chunk)
    write(driver, near, 3, b"one")
    assert read(driver, near, 0, 3) == read(driver, far, 1, 3) == b"one"
    write(driver, far, 1, b"two")
    assert read(driver, near, 0, 3) == read(driver, near, 3, 3) == b"two"
    driver.unmap(near, 3, 1)
    assert read(driver, near, 0, 3) == b"two"


def test_a_chunk_keeps_its_bytes_wherever_it_goes(driver: Driver) -> None:
    span = driver.reserve(4)
    chunks = driver.create(2)
    driver.map(span, 0, chunks)
    write(driver, span, 0, b"left")
    write(driver, span, 1, b"right")
    driver.unmap(span, 0, 2)
    driver.map(span, 2, [chunks[1], chunks[0]])
    assert read(driver, span, 2, 5) == b"right"
    assert read(driver, span, 3, 4) == b"left"


def test_unmapping_takes_only_what_was_named(driver: Driver) -> None:
    span = driver.reserve(5)
    driver.map(span, 0, driver.create(5))
    for slot in range(5):
        write(driver, span, slot, bytes([slot]) * 8)
    driver.unmap(span, 1, 3)
    assert read(driver, span, 0, 8) == b"\0" * 8
    assert read(driver, span, 4, 8) == b"\4" * 8
    for slot in (1, 2, 3):
        with pytest.raises(DriverError):
            read(driver, span, slot, 1)


def test_bytes_are_copied_between_mapped_ranges(driver: Driver) -> None:
    source, target = driver.reserve(2), driver.reserve(3)
    driver.map(source, 0, driver.create(2))
    driver.map(target, 0, driver.create(3))
    data = bytes(range(256)) * 2
    driver.copy_in(address(driver, source, 1) - 256, data)
    place = address(driver, target, 2) - 77
    driver.copy(place, address(driver, source, 1) - 256, len(data))
    assert driver.copy_out(place, len(data)) == data
    driver.copy_in(address(driver, source, 1) - 256, b"x" * 512)
    assert driver.copy_out(place, len(data)) == data


def test_nothing_asked_is_nothing_done(driver: Driver) -> None:
    span = driver.reserve(1)
    assert driver.create(0) == []
    driver.map(span, 0, [])
    driver.unmap(span, 0, 0)
    driver.destroy([])
    chunk = driver.create(1)
    driver.map(span, 0, chunk)
    driver.copy_in(span.address, b"")
    driver.copy(span.address, span.address, 0)
    assert driver.copy_out(span.address, 0) == b""


class Scene:
    """A span of eight slots: chunks at 1, 2 and 5, one more chunk, one chunk destroyed."""

    def __init__(self, driver: Driver) -> None:
        self.driver = driver
        self.span = driver.reserve(8)
        self.spare, self.gone, *self.chunks = driver.create(5)
        driver.map(self.span, 1, self.chunks[:2])
        driver.map(self.span, 5, self.chunks[2:])
        for slot in (1, 2, 5):
            write(driver, self.span, slot, b"slot %d" % slot)
        driver.destroy([self.gone])

    def check(self) -> None:
        """Everything is as it was, and still works."""
        assert self.driver.physical_bytes() == 4 * self.driver.chunk_bytes
        for slot in (1, 2, 5):
            assert read(self.driver, self.span, slot, 6) == b"slot %d" % slot
        for slot in (0, 3, 4, 6, 7):
            with pytest.raises(DriverError):
                read(self.driver, self.span, slot, 1)
            self.driver.map(self.span, slot, [self.spare])
            self.driver.unmap(self.span, slot, 1)
        self.driver.unmap(self.span, 1, 2)
        self.driver.unmap(self.span, 5, 1)
        self.driver.destroy([self.spare, *self.chunks])
        self.driver.release(self.span)
        assert self.driver.physical_bytes() == 0


MISTAKES: dict[str, Callable[[Scene], object]] = {
    "create fewer than none": lambda s: s.driver.create(-1),
    "reserve nothing": lambda s: s.driver.reserve(0),
    "map over a chunk": lambda s: s.driver.map(s.span, 2, [s.spare]),
    "map half over a chunk": lambda s: s.driver.map(s.span, 4, [s.spare, s.chunks[0]]),
    "map a destroyed chunk": lambda s: s.driver.map(s.span, 3, [s.spare, s.gone]),
    "map a chunk that never was": lambda s: s.driver.map(s.span, 3, [Chunk(10**9)]),
    "map before the span": lambda s: s.driver.map(s.span, -1, [s.spare]),
    "map past the span": lambda s: s.driver.map(s.span, 7, [s.spare, s.chunks[0]]),
    "map in a span that never was": lambda s: s.driver.map(Span(12345, 4), 0, [s.spare]),
    "map in half a span": lambda s: s.driver.map(Span(s.span.address, 4), 0, [s.spare]),
    "unmap what is not mapped": lambda s: s.driver.unmap(s.span, 3, 1),
    "unmap past what is mapped": lambda s: s.driver.unmap(s.span, 2, 2),
    "unmap past the span": lambda s: s.driver.unmap(s.span, 5, 9),
    "unmap fewer than none": lambda s: s.driver.unmap(s.span, 2, -1),
    "destroy a mapped chunk": lambda s: s.driver.destroy([s.spare, s.chunks[1]]),
    "destroy a chunk twice": lambda s: s.driver.destroy([s.gone]),
    "destroy a chunk twice at once": lambda s: s.driver.destroy([s.spare, s.spare]),
    "release a span in use": lambda s: s.driver.release(s.span),
    "release a span that never was": lambda s: s.driver.release(Span(12345, 4)),
    "read past what is mapped": lambda s: read(s.driver, s.span, 2, s.driver.chunk_bytes + 1),
    "read past the span": lambda s: read(s.driver, s.span, 8, 1),
    "read a negative count": lambda s: read(s.driver, s.span, 2, -1),
    "read nowhere": lambda s: s.driver.copy_out(12345, 1),
    "write to an unmapped slot": lambda s: write(s.driver, s.span, 3, b"no"),
    "write past what is mapped": lambda s: s.driver.copy_in(
        address(s.driver, s.span, 3) - 1, b"no"
    ),
    "copy from an unmapped slot": lambda s: s.driver.copy(
        address(s.driver, s.span, 1), address(s.driver, s.span, 3), 8
    ),
    "copy to an unmapped slot": lambda s: s.driver.copy(
        address(s.driver, s.span, 3), address(s.driver, s.span, 1), 8
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_refused_and_changes_nothing(driver: Driver, mistake: str) -> None:
    scene = Scene(driver)
    with pytest.raises(DriverError):
        MISTAKES[mistake](scene)
    scene.check()


def test_a_released_span_is_gone(driver: Driver) -> None:
    span = driver.reserve(2)
    driver.release(span)
    with pytest.raises(DriverError):
        driver.release(span)
    with pytest.raises(DriverError):
        driver.map(span, 0, driver.create(1))


def test_closing_gives_everything_back(driver: Driver) -> None:
    scene = Scene(driver)
    driver.reserve(3)
    driver.close()
    assert driver.physical_bytes() == 0
    driver.close()
    for late in (
        lambda: driver.create(1),
        lambda: driver.reserve(1),
        lambda: driver.map(scene.span, 0, [scene.spare]),
        lambda: driver.unmap(scene.span, 1, 1),
        lambda: driver.destroy([scene.spare]),
        lambda: driver.release(scene.span),
        lambda: read(driver, scene.span, 1, 1),
    ):
        with pytest.raises(DriverError):
            late()


def test_more_than_there_is_is_refused_whole(driver: Driver) -> None:
    some = driver.create(3)
    with pytest.raises(DriverError):
        driver.create(ROOM - 2)
    assert driver.physical_bytes() == 3 * driver.chunk_bytes
    rest = driver.create(ROOM - 3)
    driver.destroy(some + rest)
    assert driver.physical_bytes() == 0
