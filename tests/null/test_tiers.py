"""Blocks go down, come back the same, and are not lost without a word."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tier_scene import BASE_PIECES, CHUNK, PIECE, RATE, SCENES, TOP_PIECES, Scene

from ellm.memory.block import Block, BlockState, Purpose
from ellm.memory.drivers.null import NullDriver
from ellm.memory.extents import DriverAccess
from ellm.memory.stores.void import VoidStore
from ellm.memory.tiers import Tiers
from ellm.memory.timed_copier import TimedCopier
from ellm.memory.transfer import TransferState
from ellm.sim.clock import VirtualClock


@pytest.fixture(params=SCENES)
def scene(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Scene]:
    made = SCENES[request.param](str(tmp_path))
    yield made
    made.tiers.check()
    made.close()
    made.tiers.close()


@pytest.fixture
def build(tmp_path: Path) -> Iterator[Callable[[str], Scene]]:
    made: list[Scene] = []

    def make(name: str) -> Scene:
        made.append(SCENES[name](str(tmp_path)))
        return made[-1]

    yield make
    for each in made:
        each.tiers.check()
        each.close()


@pytest.fixture(params=[name for name in SCENES if "levels" not in name])
def flat(request: pytest.FixtureRequest, build: Callable[[str], Scene]) -> Scene:
    """One level: the disk."""
    return build(request.param)


def put(scene: Scene, data: bytes, offset: int = 0, room: int = 0) -> Block:
    block = scene.tiers.put(scene.write(offset, data), room)
    assert block is not None
    scene.tiers.wait(block)
    assert block.state is BlockState.READY
    return block


def fetch(scene: Scene, block: Block, size: int, offset: int = 0) -> bytes:
    extents = scene.write(4 * CHUNK, b"\xee" * size)
    transfer = scene.tiers.get(block, extents, offset)
    scene.tiers.wait(transfer)
    assert transfer.state is TransferState.DONE, transfer.error
    return scene.read(extents)


def test_random_extents_survive_the_round_trip(scene: Scene) -> None:
    dice = random.Random(0)
    for _ in range(20):
        ends = sorted(dice.sample(range(scene.size // 16), 8))
        extents = [
            (scene.address + start * 16 + dice.randrange(8), dice.randrange(1, 8 * (stop - start)))
            for start, stop in zip(ends[::2], ends[1::2], strict=True)
        ]
        dice.shuffle(extents)
        size = sum(count for _, count in extents)
        data = dice.randbytes(size)
        scene.scatter(data, extents)
        block = scene.tiers.put(extents)
        if size > BASE_PIECES * PIECE:
            assert block is None
            continue
        assert block is not None
        scene.tiers.wait(block)
        scene.scatter(bytes(size), extents)
        transfer = scene.tiers.get(block, extents)
        scene.tiers.wait(transfer)
        assert scene.read(extents) == data
        scene.tiers.drop(block)
        assert scene.tiers.used == 0


def test_a_part_comes_back_and_a_part_is_rewritten(scene: Scene) -> None:
    data = bytearray(random.Random(1).randbytes(3 * PIECE + 100))
    block = put(scene, bytes(data), room=5 * PIECE)
    assert fetch(scene, block, 200, PIECE - 100) == data[PIECE - 100 : PIECE + 100]
    other = put(scene, b"other" * 1000)
    for offset, size in ((PIECE - 3, 7), (0, 1), (2 * PIECE, PIECE), (100, 3 * PIECE)):
        fresh = random.Random(offset).randbytes(size)
        data[offset : offset + size] = fresh
        update = scene.tiers.update(block, offset, scene.write(0, fresh))
        scene.tiers.wait(update)
        assert update.state is TransferState.DONE
        # Leave nothing of it in a staging buffer.
        scene.tiers.wait(scene.tiers.update(other, 0, scene.write(0, b"rehto" * 1000)))
        assert fetch(scene, block, len(data)) == data
    while len(data) < 5 * PIECE:
        row = random.Random(len(data)).randbytes(min(700, 5 * PIECE - len(data)))
        scene.tiers.wait(scene.tiers.update(block, len(data), scene.write(0, row)))
        data += row
    assert fetch(scene, block, len(data)) == data
    assert scene.tiers.stats.updates == 8 + 12


def test_transfers_of_a_block_keep_their_order(scene: Scene) -> None:
    block = scene.tiers.put(scene.write(0, b"a" * PIECE))
    assert block is not None
    first = scene.tiers.get(block, scene.write(PIECE, b"?" * 4))
    update = scene.tiers.update(block, 0, scene.write(2 * PIECE, b"b"))
    second = scene.tiers.get(block, scene.write(3 * PIECE, b"?" * 4))
    scene.tiers.wait(block)
    assert scene.read([(scene.address + PIECE, 4)]) == b"aaaa"
    assert scene.read([(scene.address + 3 * PIECE, 4)]) == b"baaa"
    assert [t.purpose for t in scene.tiers.poll()] == [
        Purpose.PUT,
        Purpose.GET,
        Purpose.UPDATE,
        Purpose.GET,
    ]
    assert scene.tiers.poll() == []
    assert {first.state, update.state, second.state} == {TransferState.DONE}


def test_no_room_is_none_and_room_comes_back(scene: Scene) -> None:
    tiers = scene.tiers
    assert tiers.capacity in (BASE_PIECES * PIECE, (BASE_PIECES + TOP_PIECES) * PIECE)
    blocks = []
    while (block := tiers.put(scene.write(0, b"x" * (2 * PIECE - 1)))) is not None:
        blocks.append(block)
        scene.settle()
    assert len(blocks) * 2 * PIECE == tiers.used == tiers.capacity
    assert tiers.stats.refusals == 1
    tiers.drop(blocks.pop(1))
    assert tiers.free == 2 * PIECE
    assert tiers.put(scene.write(0, b"y" * PIECE)) is not None


def test_a_dropped_block_touches_nothing_any_more(scene: Scene) -> None:
    tiers = scene.tiers
    block = put(scene, b"old" * PIECE)
    target = scene.write(5 * CHUNK, bytes(3 * PIECE))
    tiers.get(block, target)
    going_down = tiers.put(scene.write(2 * CHUNK, b"z" * 4 * PIECE))
    assert going_down is not None
    tiers.drop(block)
    tiers.drop(going_down)
    tiers.drop(going_down)
    scene.scatter(b"new" * PIECE, target)
    other = put(scene, b"other")
    assert scene.read(target) == b"new" * PIECE
    assert fetch(scene, other, 5) == b"other"
    assert tiers.used == PIECE
    assert block.state is going_down.state is BlockState.DROPPED


def test_a_get_can_be_cancelled_and_asked_again(scene: Scene) -> None:
    block = put(scene, b"keep" * PIECE)
    scene.tiers.poll()
    target = scene.write(5 * CHUNK, bytes(4 * PIECE))
    transfer = scene.tiers.get(block, target)
    scene.tiers.cancel(transfer)
    assert transfer.state in (TransferState.CANCELLED, TransferState.DONE)
    assert [t for t in scene.tiers.poll() if t.state is TransferState.CANCELLED] == []
    assert fetch(scene, block, 4 * PIECE) == b"keep" * PIECE


def test_a_failed_write_gives_room_back_and_is_said_once(
    flat: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(3):
        flat.disk.arm("write")
        block = flat.tiers.put(flat.write(0, b"s" * 3 * PIECE))
        assert block is not None
        flat.tiers.wait(block)
        assert block.state is BlockState.FAILED
        assert flat.read([(flat.address, 3 * PIECE)]) == b"s" * 3 * PIECE
        assert flat.tiers.used == 0
        flat.tiers.drop(block)
    assert flat.tiers.stats.store_failures == 3
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "writing to disk failed" in caplog.text
    put(flat, b"works again")


def test_a_torn_or_corrupt_block_is_not_handed_out(
    flat: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    for trouble in ("corrupt", "read", "torn update"):
        block = put(flat, b"q" * 3 * PIECE)
        at = block.place.pieces[1] * PIECE
        if trouble == "corrupt":
            flat.disk.corrupt(at + 17)
        elif trouble == "read":
            flat.disk.arm("read")
        else:
            flat.disk.arm("write")
            update = flat.tiers.update(block, 0, flat.write(0, b"u" * 2 * PIECE))
            flat.tiers.wait(update)
            assert update.state is TransferState.FAILED
            assert block.state is BlockState.READY
        target = flat.write(CHUNK, b"." * 2 * PIECE)
        later = flat.write(2 * CHUNK, b"." * 4)
        got = flat.tiers.get(block, target)
        behind = flat.tiers.get(block, later)
        flat.tiers.wait(got)
        assert got.state is behind.state is TransferState.FAILED
        assert block.state is BlockState.FAILED
        assert b"u" not in flat.read(target) + flat.read(later)
        flat.tiers.drop(block)
        assert flat.tiers.used == 0
    assert flat.tiers.stats.load_failures == 6
    assert caplog.text.count("reading from disk failed") == 1


def test_an_append_that_failed_can_be_repeated(flat: Scene) -> None:
    block = put(flat, b"1" * 10, room=3 * PIECE)
    flat.disk.arm("write")
    first = flat.tiers.update(block, 10, flat.write(0, b"2" * 2 * PIECE))
    behind = flat.tiers.update(block, block.filled, flat.write(2 * PIECE, b"3"))
    flat.tiers.wait(block)
    assert first.state is behind.state is TransferState.FAILED
    assert block.state is BlockState.READY
    assert block.filled == 10
    flat.tiers.wait(flat.tiers.update(block, 10, flat.write(0, b"2" * 2 * PIECE)))
    assert fetch(flat, block, 10 + PIECE) == b"1" * 10 + b"2" * PIECE
    assert flat.tiers.stats.store_failures == 2


def test_a_full_disk_is_said_once_and_blocks_find_no_room(
    build: Callable[[str], Scene], caplog: pytest.LogCaptureFixture
) -> None:
    scene = build("null, timed")
    scene.disk.room = (64 << 20) + 2 * PIECE
    first = put(scene, b"1" * PIECE)
    for _ in range(3):
        assert scene.tiers.put(scene.write(0, b"2" * 3 * PIECE)) is None
    assert caplog.text.count("disk takes no more") == len(caplog.records) == 1
    assert scene.tiers.stats.refusals == 3
    scene.disk.room = None
    second = put(scene, b"2" * 3 * PIECE)
    assert fetch(scene, first, PIECE) == b"1" * PIECE
    # What the file has already need not be left on the disk.
    scene.disk.room = 64 << 20
    scene.tiers.drop(second)
    assert scene.tiers.put(scene.write(0, b"3" * 4 * PIECE)) is None
    put(scene, b"3" * 3 * PIECE)


def test_trim_gives_the_disk_back(build: Callable[[str], Scene]) -> None:
    scene = build("host, threads")
    blocks = [put(scene, b"%d" % i * 2 * PIECE) for i in range(4)]
    held = scene.disk.held(scene.disk.file)
    assert held >= 8 * PIECE
    scene.tiers.drop(blocks[1])
    scene.tiers.trim()
    assert scene.disk.punched
    assert scene.disk.held(scene.disk.file) <= held - 2 * PIECE
    assert fetch(scene, blocks[2], 2 * PIECE) == b"2" * 2 * PIECE
    for block in blocks:
        scene.tiers.drop(block)
    scene.tiers.trim()
    assert scene.disk.held(scene.disk.file) == 0
    assert os.fstat(scene.disk.file).st_size == 0


def test_the_virtual_clock_says_when_a_copy_ends(build: Callable[[str], Scene]) -> None:
    scene = build("null, timed")
    tiers = scene.tiers
    first = tiers.put(scene.write(0, b"1" * PIECE))
    second = tiers.put(scene.write(CHUNK, b"2" * 2 * PIECE))
    assert first is not None
    assert second is not None
    assert tiers.store_seconds(0) > 0
    scene.clock.advance(PIECE / RATE)
    assert [t.block for t in tiers.poll()] == [first]
    scene.clock.advance(PIECE / RATE)
    assert tiers.poll() == []
    tiers.wait(second)
    assert scene.clock.now() == 3 * PIECE / RATE
    assert tiers.stats.store_time == 3 * PIECE / RATE
    for _ in range(200):
        tiers.drop(put(scene, b"3" * PIECE))
    assert tiers.write_bandwidth == pytest.approx(RATE, rel=0.01)


def test_accounts_alone_take_room_and_time_but_keep_nothing() -> None:
    clock = VirtualClock()
    driver = NullDriver(8 * CHUNK, CHUNK)
    address = driver.reserve(8).address
    copier = TimedCopier(clock, clock.advance, 1e6)
    tiers = Tiers(VoidStore(1 << 40, 1e6), DriverAccess(driver), copier)
    block = tiers.put([(address, 10**9)])
    assert block is not None
    assert tiers.store_seconds(10**6) == pytest.approx(1001)
    tiers.wait(block)
    transfer = tiers.get(block, [(address, 10**8)], offset=5)
    assert tiers.load_seconds(block, 0) == pytest.approx(100)
    tiers.wait(transfer)
    assert transfer.state is TransferState.DONE
    assert clock.now() == pytest.approx(1100)
    assert tiers.read_bandwidth == pytest.approx(1e6)
    tiers.drop(block)
    assert tiers.free == tiers.capacity == 1 << 40
    tiers.trim()
    tiers.close()
    assert driver.physical_bytes() == 0
