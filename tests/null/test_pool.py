"""The chunk pool and its ledger: who may take what, and what is real memory."""

from __future__ import annotations

import pytest
from faulty import FaultyDriver

from ellm.core.errors import BudgetError
from ellm.memory.drivers.host import HostDriver
from ellm.memory.drivers.null import NullDriver
from ellm.memory.ledger import Ledger
from ellm.memory.pool import ChunkPool

CHUNK = 1 << 16


@pytest.fixture
def pool() -> ChunkPool:
    return ChunkPool(FaultyDriver(NullDriver(10 * CHUNK, CHUNK)), 10 * CHUNK + 5)


def test_a_budget_is_whole_chunks(pool: ChunkPool) -> None:
    assert (pool.total, pool.free, pool.chunk_bytes) == (10, 10, CHUNK)
    with pytest.raises(BudgetError, match=r"64 KiB: raise --memory"):
        ChunkPool(pool.driver, CHUNK - 1)


def test_taking_and_dropping_move_the_books(pool: ChunkPool) -> None:
    kv = pool.take("kv", 4)
    weights = pool.take("weights", 5)
    assert kv is not None
    assert weights is not None
    assert (pool.held("kv"), pool.held("weights"), pool.held("nobody"), pool.free) == (4, 5, 0, 1)
    assert pool.take("kv", 2) is None
    pool.drop("kv", kv[:3])
    assert (pool.held("kv"), pool.free, pool.warm) == (1, 4, 3)
    pool.check()
    snapshot = pool.snapshot()
    assert snapshot.held == {"kv": 1, "weights": 5}
    assert sum(snapshot.held.values()) + snapshot.free == snapshot.total == 10
    assert (snapshot.warm, snapshot.physical_bytes) == (3, 9 * CHUNK)


def test_warm_chunks_come_first_and_neighbours_together(pool: ChunkPool) -> None:
    chunks = pool.take("kv", 8)
    assert chunks == list(range(8))
    pool.drop("kv", [chunks[6], chunks[2], chunks[4], chunks[3]])
    assert pool.take("kv", 1) == [6]
    assert pool.take("kv", 2) == [2, 3]
    assert pool.take("kv", 3) == [4, 8, 9]
    assert pool.free == 0


def test_a_shared_chunk_is_charged_once_and_freed_by_its_last_holder(pool: ChunkPool) -> None:
    chunks = pool.take("kv", 2)
    assert chunks is not None
    pool.retain(chunks[:1])
    assert [pool.holders(chunk) for chunk in chunks] == [2, 1]
    assert pool.held("kv") == 2
    pool.drop("kv", chunks)
    assert (pool.held("kv"), pool.free) == (1, 9)
    pool.drop("kv", chunks[:1])
    assert (pool.held("kv"), pool.free) == (0, 10)
    pool.check()


def test_dropping_what_one_does_not_hold_is_a_bug(pool: ChunkPool) -> None:
    chunks = pool.take("kv", 1)
    assert chunks is not None
    with pytest.raises(AssertionError):
        pool.drop("weights", chunks)
    pool.drop("kv", chunks)
    with pytest.raises(AssertionError):
        pool.drop("kv", chunks)


def test_trimming_gives_real_memory_back() -> None:
    driver = HostDriver(10 * CHUNK, CHUNK)
    pool = ChunkPool(driver, 10 * CHUNK)
    chunks = pool.take("kv", 6)
    assert chunks is not None
    pool.drop("kv", chunks[1:])
    assert driver.physical_bytes() == 6 * CHUNK
    assert pool.trim() == 5 * CHUNK
    assert driver.physical_bytes() == CHUNK
    assert (pool.warm, pool.free) == (0, 9)
    pool.check()
    assert pool.trim() == 0
    driver.close()


def test_a_machine_with_less_than_the_budget_is_not_now() -> None:
    pool = ChunkPool(NullDriver(3 * CHUNK, CHUNK), 10 * CHUNK)
    chunks = pool.take("kv", 2)
    assert chunks is not None
    pool.drop("kv", chunks)
    assert pool.take("kv", 4) is None
    assert "cannot create 2 chunks" in str(pool.refusal)
    assert (pool.free, pool.warm) == (10, 2)
    pool.check()
    assert pool.take("kv", 3) is not None
    pool.check()


def test_a_refused_trim_keeps_the_chunks_warm(pool: ChunkPool) -> None:
    chunks = pool.take("kv", 3)
    assert chunks is not None
    pool.drop("kv", chunks)
    pool.driver.arm("destroy", 1)  # type: ignore[attr-defined]
    assert pool.trim() == 0
    assert "refused by the test" in str(pool.refusal)
    assert pool.warm == 3
    pool.check()
    assert pool.trim() == 3 * CHUNK


def test_a_lowered_budget_that_the_machine_refuses_is_reached_at_the_next_drop(
    pool: ChunkPool,
) -> None:
    chunks = pool.take("kv", 6)
    assert chunks is not None
    pool.drop("kv", chunks[:2])
    pool.driver.arm("destroy", 1)  # type: ignore[attr-defined]
    pool.resize(3)
    assert (pool.free, pool.warm) == (-1, 2)
    assert "destroy refused" in str(pool.refusal)
    pool.check()
    pool.driver.arm("destroy", 1)  # type: ignore[attr-defined]
    pool.drop("kv", chunks[2:4])
    assert (pool.free, pool.warm) == (1, 4)
    pool.drop("kv", chunks[4:])
    assert (pool.free, pool.warm) == (3, 3)
    pool.check()


def test_the_machines_count_is_checked_too(pool: ChunkPool) -> None:
    pool.driver.create(1)
    with pytest.raises(AssertionError):
        pool.check()


def test_a_floor_is_kept_free_for_its_owner() -> None:
    ledger = Ledger(10)
    ledger.limit("activations", floor=4)
    assert (ledger.available("kv"), ledger.available("activations")) == (6, 10)
    ledger.charge("activations", 3)
    assert ledger.available("kv") == 6
    ledger.charge("activations", 3)
    assert ledger.available("kv") == 4
    ledger.charge("kv", 4)
    ledger.refund("activations", 5)
    assert (ledger.free, ledger.available("kv"), ledger.available("activations")) == (5, 2, 5)


def test_a_ceiling_stops_its_owner_alone() -> None:
    ledger = Ledger(10)
    ledger.limit("kv", ceiling=5)
    ledger.charge("kv", 5)
    assert (ledger.available("kv"), ledger.available("weights")) == (0, 5)
    ledger.limit("kv", ceiling=3)
    assert (ledger.held("kv"), ledger.available("kv")) == (5, 0)
    ledger.limit("kv")
    assert ledger.available("kv") == 5


def test_limits_that_cannot_hold_are_refused() -> None:
    ledger = Ledger(10)
    ledger.limit("kv", floor=6)
    with pytest.raises(BudgetError, match=r"floor of 5 chunks for weights and 6 .* pool of 10"):
        ledger.limit("weights", floor=5)
    with pytest.raises(BudgetError, match="ceiling of kv, 3, is below its floor, 4"):
        ledger.limit("kv", floor=4, ceiling=3)
    with pytest.raises(BudgetError):
        ledger.limit("kv", floor=-1)
    ledger.check()
    assert ledger.available("weights") == 4


def test_taking_more_than_is_available_is_a_bug() -> None:
    ledger = Ledger(10)
    ledger.limit("kv", floor=6)
    with pytest.raises(AssertionError):
        ledger.charge("weights", 5)
    with pytest.raises(AssertionError):
        ledger.refund("kv", 1)
