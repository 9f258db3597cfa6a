"""One virtual tensor at a time: which chunks are behind which bytes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ellm.core.errors import DriverError
from ellm.memory.drivers.host import HostDriver
from ellm.memory.pool import ChunkPool
from ellm.memory.virtual import VirtualTensor

CHUNK = 1 << 16


@pytest.fixture
def pool() -> Iterator[ChunkPool]:
    driver = HostDriver(12 * CHUNK, CHUNK)
    yield ChunkPool(driver, 12 * CHUNK)
    driver.close()


@pytest.fixture
def tensor(pool: ChunkPool) -> VirtualTensor:
    return VirtualTensor(pool, "kv", pool.driver.reserve(40), 2, 30)


def test_it_is_a_window_of_its_span(pool: ChunkPool, tensor: VirtualTensor) -> None:
    assert tensor.address == tensor.span.address + 2 * CHUNK
    assert tensor.capacity == 30 * CHUNK
    assert VirtualTensor(pool, "kv", tensor.span, 33).capacity == 7 * CHUNK
    tensor.grow(1)
    pool.driver.copy_in(tensor.address, b"first")
    with pytest.raises(DriverError):
        pool.driver.copy_in(tensor.address - 1, b"before")


def test_growing_covers_bytes_not_chunks(tensor: VirtualTensor) -> None:
    for size, chunks in ((0, 0), (1, 1), (CHUNK, 1), (CHUNK + 1, 2), (CHUNK, 2), (5 * CHUNK, 5)):
        assert tensor.grow(size)
        assert tensor.mapped == chunks
        tensor.check()
        tensor.pool.check()


def test_covering_fills_only_the_holes(pool: ChunkPool, tensor: VirtualTensor) -> None:
    assert tensor.cover(2 * CHUNK - 1, 2 * CHUNK + 1)
    assert tensor.cover(5 * CHUNK, 6 * CHUNK)
    assert tensor.mapped == 3
    assert tensor.missing(0, 7 * CHUNK) == 4
    assert tensor.missing(CHUNK, 3 * CHUNK) == 0
    assert tensor.missing(7 * CHUNK + 5, 7 * CHUNK + 5) == 0
    pool.driver.copy_in(tensor.address + CHUNK, b"kept")
    assert tensor.cover(0, 7 * CHUNK)
    assert (tensor.mapped, pool.held("kv")) == (7, 7)
    assert pool.driver.copy_out(tensor.address + CHUNK, 4) == b"kept"


def test_too_much_is_not_now_and_changes_nothing(pool: ChunkPool, tensor: VirtualTensor) -> None:
    assert tensor.grow(10 * CHUNK)
    assert not tensor.cover(9 * CHUNK, 13 * CHUNK)
    assert (tensor.mapped, pool.free) == (10, 2)
    assert tensor.grow(12 * CHUNK)
    with pytest.raises(AssertionError):
        tensor.grow(31 * CHUNK)


def test_shrinking_keeps_every_byte_asked_for(pool: ChunkPool, tensor: VirtualTensor) -> None:
    tensor.grow(6 * CHUNK)
    assert tensor.shrink(3 * CHUNK + 1) == 2
    assert (tensor.mapped, pool.free) == (4, 8)
    assert tensor.shrink(3 * CHUNK) == 1
    assert tensor.shrink(3 * CHUNK) == 0
    assert tensor.missing(0, 3 * CHUNK) == 0
    tensor.clear()
    assert (tensor.mapped, pool.free) == (0, 12)
    pool.check()


def test_punching_takes_only_chunks_wholly_inside(pool: ChunkPool, tensor: VirtualTensor) -> None:
    tensor.grow(8 * CHUNK)
    assert tensor.punch(CHUNK + 1, 4 * CHUNK - 1) == 1
    assert tensor.missing(2 * CHUNK, 3 * CHUNK) == 1
    assert tensor.punch(CHUNK // 4, CHUNK // 2) == 0
    assert tensor.punch(0, 8 * CHUNK) == 7
    assert tensor.grow(CHUNK)
    assert tensor.mapped == 1
    pool.check()


def test_sharing_is_the_same_memory(pool: ChunkPool, tensor: VirtualTensor) -> None:
    other = VirtualTensor(pool, "kv", pool.driver.reserve(8))
    tensor.grow(3 * CHUNK)
    pool.driver.copy_in(tensor.address + CHUNK, b"prefix")
    other.share(tensor, 2)
    assert (other.mapped, pool.held("kv")) == (2, 3)
    assert pool.driver.copy_out(other.address + CHUNK, 6) == b"prefix"
    assert [tensor.is_shared(slot) for slot in range(3)] == [True, True, False]
    assert other.is_shared(0)
    assert other.grow(4 * CHUNK)
    assert (other.mapped, pool.held("kv")) == (4, 5)
    assert tensor.shrink(0) == 1
    assert not other.is_shared(0)
    assert pool.driver.copy_out(other.address + CHUNK, 6) == b"prefix"
    assert other.shrink(0) == 4
    pool.check()


def test_sharing_over_mapped_slots_is_refused(pool: ChunkPool, tensor: VirtualTensor) -> None:
    other = VirtualTensor(pool, "kv", pool.driver.reserve(8))
    tensor.grow(2 * CHUNK)
    other.cover(CHUNK, 2 * CHUNK)
    with pytest.raises(DriverError):
        other.share(tensor, 2)
    assert not tensor.is_shared(0)
    other.share(tensor, 1)
    other.check()
    pool.check()


def test_owners_do_not_share(pool: ChunkPool, tensor: VirtualTensor) -> None:
    other = VirtualTensor(pool, "activations", pool.driver.reserve(8))
    tensor.grow(CHUNK)
    with pytest.raises(AssertionError):
        other.share(tensor, 1)
