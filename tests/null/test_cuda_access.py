"""Pinned memory and asynchronous copies, over the stand-in for the CUDA bindings."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from fake_cuda import CUresult, FakeCuda
from fake_stream import FakeStream, Pace
from tier_scene import CHUNK, PIECE, FaultyDisk

from ellm.core.errors import DriverError
from ellm.core.units import MIB
from ellm.llm import tier
from ellm.memory.block import Block, BlockState
from ellm.memory.drivers.cuda import CudaDriver
from ellm.memory.drivers.cuda_access import CudaAccess
from ellm.memory.stores.file import FileStore
from ellm.memory.stores.host import HostStore
from ellm.memory.thread_copier import ThreadCopier
from ellm.memory.tiers import Tiers
from ellm.memory.transfer import TransferState

STAGE = 2


@pytest.fixture
def cuda() -> FakeCuda:
    return FakeCuda(8 * CHUNK, CHUNK)


def mapped(cuda: FakeCuda) -> tuple[CudaDriver, int]:
    driver = CudaDriver(bindings=cuda)
    span = driver.reserve(8)
    driver.map(span, 0, driver.create(8))
    return driver, span.address


@dataclass(eq=False)
class Pinned:
    """A tier of 10 pieces of pinned memory, four a slab, over 12 on disk."""

    cuda: FakeCuda
    driver: CudaDriver
    address: int
    tiers: Tiers

    @property
    def now(self) -> int:
        """Pieces that are pinned: the device's own count."""
        return sum(len(pages) - 4096 for pages in self.cuda.pinned.values()) // PIECE

    def put(self, pieces: int) -> Block:
        block = self.tiers.put([(self.address, pieces * PIECE)])
        assert block is not None
        self.tiers.wait(block)
        assert block.state is BlockState.READY
        return block

    def close(self) -> None:
        self.tiers.check()
        self.tiers.close()
        self.driver.close()
        assert self.cuda.idle


@pytest.fixture
def pinned(cuda: FakeCuda, tmp_path: Path) -> Iterator[Pinned]:
    cuda.computing[0] = FakeStream(Pace.LAZY)
    driver, address = mapped(cuda)
    access = CudaAccess(bindings=cuda)
    top = HostStore(10 * PIECE, access, piece_bytes=PIECE, slab_bytes=4 * PIECE)
    base = FileStore(12 * PIECE, access, str(tmp_path), piece_bytes=PIECE, step_bytes=STAGE * PIECE)
    tiers = Tiers(base, access, ThreadCopier(), top, lambda: driver.fence(0))
    made = Pinned(cuda, driver, address, tiers)
    yield made
    made.close()


def test_nothing_is_pinned_before_it_is_needed(pinned: Pinned) -> None:
    assert pinned.now == 0
    pinned.put(1)
    assert pinned.now == 4
    pinned.put(3)
    assert pinned.now == 4
    pinned.put(1)
    assert pinned.now == 8


def test_no_more_is_pinned_than_was_asked_for(pinned: Pinned) -> None:
    """The last slab is cut to what is left; disks take one buffer each way beside it."""
    blocks = [pinned.put(1) for _ in range(10)]
    assert pinned.now <= 10 + STAGE
    while pinned.tiers.free >= PIECE:
        blocks.append(pinned.put(1))
    for block in blocks:
        pinned.tiers.wait(pinned.tiers.get(block, [(pinned.address + CHUNK, PIECE)]))
    assert pinned.now == 10 + 2 * STAGE
    assert pinned.tiers.stats.spills > 0


def test_what_is_idle_is_unpinned(pinned: Pinned) -> None:
    blocks = [pinned.put(2) for _ in range(6)]
    for block in blocks:
        pinned.tiers.wait(block)
    last = blocks.pop()
    for block in blocks:
        pinned.tiers.drop(block)
    before = pinned.now
    pinned.tiers.trim()
    assert 2 <= pinned.now < before, "where the last block is stays"
    transfer = pinned.tiers.get(last, [(pinned.address, 2 * PIECE)])
    pinned.tiers.wait(transfer)
    assert transfer.state is TransferState.DONE
    pinned.tiers.drop(last)
    pinned.tiers.trim()
    assert pinned.now == 0
    pinned.put(1)
    assert pinned.now == 4


def test_memory_that_the_device_does_not_take_back_is_said(
    pinned: Pinned, caplog: pytest.LogCaptureFixture
) -> None:
    pinned.tiers.drop(pinned.put(1))
    pinned.cuda.fail("cuMemFreeHost")
    pinned.tiers.trim()
    assert "keeps room that is free" in caplog.text
    assert pinned.now == 4
    pinned.cuda.pinned.clear()  # a real device keeps it to the end
    pinned.put(1)


def test_a_copy_has_happened_when_the_call_returns(cuda: FakeCuda) -> None:
    driver, address = mapped(cuda)
    access = CudaAccess(bindings=cuda)
    buffer = access.allocate(3 * PIECE)
    driver.copy_in(address, b"a" * 100)
    driver.copy_in(address + CHUNK - 50, b"b" * 100)
    extents = [(address + CHUNK - 50, 100), (address, 100)]
    access.read(extents, buffer.address)
    assert bytes(buffer.view[:200]) == b"b" * 100 + b"a" * 100
    buffer.view[:200] = b"c" * 150 + b"d" * 50
    access.write(buffer.address, extents)
    assert driver.copy_out(address, 100) == b"c" * 50 + b"d" * 50
    assert driver.copy_out(address + CHUNK - 50, 100) == b"c" * 100
    access.free(buffer)
    driver.close()
    access.close()
    access.close()
    assert cuda.idle


def test_a_refused_copy_leaves_none_under_way(cuda: FakeCuda) -> None:
    driver, address = mapped(cuda)
    access = CudaAccess(bindings=cuda)
    buffer = access.allocate(PIECE)
    extents = [(address, 10), (address + CHUNK, 10)]
    for call, copy in (
        ("cuMemcpyDtoHAsync", lambda: access.read(extents, buffer.address)),
        ("cuMemcpyHtoDAsync", lambda: access.write(buffer.address, extents)),
    ):
        cuda.fail(call, after=1)
        with pytest.raises(DriverError, match=f"{call} was refused"):
            copy()
        assert not any(stream.pending for stream in cuda.streams)
        assert not any(event.pending for event in cuda.events)
    driver.close()
    access.close()
    assert cuda.idle


def test_what_cannot_be_made_is_undone(cuda: FakeCuda) -> None:
    for call in ("cuStreamCreate", "cuEventCreate"):
        for after in range(2):
            cuda.fail(call, after)
            with pytest.raises(DriverError, match=call):
                CudaAccess(bindings=cuda)
            assert cuda.idle


def test_below_a_device_copies_wait_for_its_stream(
    cuda: FakeCuda, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tier as a server opens it."""
    stream = cuda.computing[0] = FakeStream(Pace.LAZY)
    monkeypatch.setattr(tier, "CudaAccess", lambda number: CudaAccess(number, bindings=cuda))
    driver, address = mapped(cuda)
    tiers = tier.open_tier(64 * MIB, str(tmp_path), "cuda:0", lambda: driver.fence(0))
    assert tiers is not None
    stream.launch(lambda: driver.copy_in(address, b"late" * 100))
    block = tiers.put([(address, 400)])
    stream.launch(lambda: driver.copy_in(address, b"next" * 100))
    assert block is not None
    transfer = tiers.get(block, [(address + CHUNK, 400)])
    tiers.wait(transfer)
    assert driver.copy_out(address + CHUNK, 400) == b"late" * 100
    assert driver.copy_out(address, 400) == b"next" * 100
    tiers.close()
    driver.close()
    assert cuda.idle


def test_without_more_pinned_memory_blocks_go_to_disk(
    cuda: FakeCuda, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cuda.pinned_limit = 8 * PIECE
    driver, address = mapped(cuda)
    access = CudaAccess(bindings=cuda)
    top = HostStore(12 * PIECE, access, piece_bytes=PIECE, slab_bytes=4 * PIECE)
    base = FileStore(
        12 * PIECE,
        access,
        str(tmp_path),
        piece_bytes=PIECE,
        step_bytes=2 * PIECE,
        disk=FaultyDisk(),
    )
    tiers = Tiers(base, access, ThreadCopier(), top)
    driver.copy_in(address, b"x" * 4 * PIECE)
    states = []
    for _ in range(4):
        block = tiers.put([(address, 4 * PIECE)])
        assert block is not None
        tiers.wait(block)
        states.append((block.state, block.level is tiers._base))
    # The first fills a slab, the second is refused another, and the rest know better.
    assert states == [
        (BlockState.READY, False),
        (BlockState.FAILED, False),
        (BlockState.READY, True),
        (BlockState.READY, True),
    ]
    assert tiers.stats.store_failures == 1
    assert CUresult.CUDA_ERROR_OUT_OF_MEMORY.name in caplog.text
    tiers.check()
    tiers.close()
    driver.close()
    assert cuda.idle
