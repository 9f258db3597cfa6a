"""Copies behind fences: none touches memory before the stream has got there, whatever happens."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fake_cuda import CUresult, FakeCuda
from fake_stream import FakeStream, Pace
from tier_scene import BY_HAND, CHUNK, PIECE, Scene

from ellm.core.errors import DriverError
from ellm.memory.block import Block, BlockState, Purpose
from ellm.memory.drivers.cuda import CudaDriver
from ellm.memory.fences import fence_now
from ellm.memory.thread_copier import ThreadCopier
from ellm.memory.transfer import Direction, Transfer, TransferState


@pytest.fixture(params=BY_HAND)
def scene(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Scene]:
    made = BY_HAND[request.param](str(tmp_path))
    yield made
    made.tiers.check()
    made.close()


def peek(scene: Scene, offset: int, size: int) -> bytes:
    """What is there now, however far the stream has come."""
    return scene.driver.copy_out(scene.address + offset, size)


def stored(scene: Scene, data: bytes, offset: int = 0) -> Block:
    """A block that is READY, with a stream that has nothing left to do."""
    block = scene.tiers.put(scene.write(offset, data))
    assert block is not None
    scene.stream.drain()
    scene.tiers.wait(block)
    scene.tiers.poll()
    assert block.state is BlockState.READY
    return block


def pause() -> None:
    """Time for a thread to do what it should not."""
    time.sleep(0.02)


def ended(scene: Scene, count: int) -> list[Purpose]:
    """What `count` transfers were that end by themselves."""
    found: list[Purpose] = []
    until = time.monotonic() + 30
    while len(found) < count:
        found += [transfer.purpose for transfer in scene.tiers.poll()]
        assert time.monotonic() < until, found
        time.sleep(0.001)  # copies end in threads of their own, which tell nobody
    return found


def test_what_goes_down_is_what_was_launched_before(scene: Scene) -> None:
    scene.put_there(b"before" * 100, [(scene.address, 600)])
    block = scene.tiers.put(scene.write(0, b"wanted" * 100))
    assert block is not None
    scene.stream.launch(lambda: None)  # what follows is not waited for
    pause()
    assert scene.tiers.poll() == []
    assert block.state is BlockState.WRITING
    scene.stream.advance(2)
    assert ended(scene, 1) == [Purpose.PUT]
    assert len(scene.stream) == 1
    target = scene.write(CHUNK, bytes(600))
    transfer = scene.tiers.get(block, target)
    scene.stream.drain()
    scene.tiers.wait(transfer)
    assert peek(scene, CHUNK, 600) == b"wanted" * 100


def test_what_comes_up_overwrites_nothing_that_is_still_read(scene: Scene) -> None:
    block = stored(scene, b"n" * 3 * PIECE)
    target = scene.write(CHUNK, b"o" * 3 * PIECE)
    scene.stream.drain()
    seen: list[bytes] = []
    scene.stream.launch(lambda: seen.append(peek(scene, CHUNK, 3 * PIECE)))
    transfer = scene.tiers.get(block, target)
    pause()
    assert transfer.pending
    assert peek(scene, CHUNK, 3 * PIECE) == b"o" * 3 * PIECE
    scene.stream.drain()
    scene.tiers.wait(transfer)
    assert seen == [b"o" * 3 * PIECE]
    assert peek(scene, CHUNK, 3 * PIECE) == b"n" * 3 * PIECE


def test_transfers_pass_their_fences_in_order(scene: Scene) -> None:
    block = scene.tiers.put(scene.write(0, b"1" * PIECE))
    assert block is not None
    scene.tiers.update(block, 0, scene.write(0, b"2"))
    scene.tiers.get(block, scene.write(CHUNK, b"?" * PIECE))
    for purpose in (Purpose.PUT, Purpose.UPDATE, Purpose.GET):
        pause()
        assert scene.tiers.poll() == []
        scene.stream.advance(2)
        assert ended(scene, 1) == [purpose]
    assert peek(scene, CHUNK, PIECE) == b"2" + b"1" * (PIECE - 1)


def test_a_get_that_waits_for_its_fence_is_cancelled_at_once(scene: Scene) -> None:
    block = stored(scene, b"kept" * 1000)
    target = scene.write(CHUNK, b"mine" * 1000)
    transfer = scene.tiers.get(block, target)
    behind = scene.tiers.get(block, scene.write(2 * CHUNK, bytes(4000)))
    pause()
    scene.tiers.cancel(transfer)
    assert transfer.state is TransferState.CANCELLED
    scene.tiers.check()
    scene.stream.drain()
    scene.tiers.wait(behind)
    assert scene.tiers.poll() == [behind]
    assert peek(scene, CHUNK, 4000) == b"mine" * 1000
    assert peek(scene, 2 * CHUNK, 4000) == b"kept" * 1000


def test_a_block_that_waits_for_its_fence_is_dropped_at_once(scene: Scene) -> None:
    first = scene.tiers.put(scene.write(0, b"1" * 2 * PIECE))
    second = scene.tiers.put(scene.write(CHUNK, b"2" * 2 * PIECE))
    assert first is not None
    assert second is not None
    pause()
    scene.tiers.drop(first)
    assert scene.tiers.used == 2 * PIECE
    # The same pieces again, from the same memory: what was dropped must not get in between.
    third = scene.tiers.put(scene.write(0, b"3" * 2 * PIECE))
    assert third is not None
    scene.stream.drain()
    for block, data in ((second, b"2"), (third, b"3")):
        scene.tiers.wait(block)
        transfer = scene.tiers.get(block, scene.write(2 * CHUNK, bytes(2 * PIECE)))
        scene.stream.drain()
        scene.tiers.wait(transfer)
        assert peek(scene, 2 * CHUNK, 2 * PIECE) == data * 2 * PIECE
    assert scene.tiers.stats.cancelled == 1


def test_work_that_failed_fails_the_transfer_and_nothing_else(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    ready = stored(scene, b"r" * PIECE)
    going = scene.tiers.put(scene.write(CHUNK, b"g" * PIECE))
    assert going is not None
    pause()
    scene.stream.fail()
    scene.stream.drain()
    scene.tiers.wait(going)
    assert going.state is BlockState.FAILED
    target = scene.write(2 * CHUNK, b"t" * PIECE)
    scene.stream.fail()
    transfer = scene.tiers.get(ready, target)
    scene.stream.drain()
    scene.tiers.wait(transfer)
    assert transfer.state is TransferState.FAILED
    assert isinstance(transfer.error, DriverError)
    assert peek(scene, 2 * CHUNK, PIECE) == b"t" * PIECE
    assert scene.tiers.used == 0
    assert (scene.tiers.stats.store_failures, scene.tiers.stats.load_failures) == (1, 1)
    assert "failed" in caplog.text
    stored(scene, b"both threads live")


def test_an_update_behind_work_that_failed_can_be_repeated(scene: Scene) -> None:
    block = scene.tiers.put(scene.write(0, b"1" * 10), room=PIECE)
    assert block is not None
    scene.stream.drain()
    scene.tiers.wait(block)
    scene.stream.fail()
    update = scene.tiers.update(block, 10, scene.write(0, b"2" * 10))
    scene.stream.drain()
    scene.tiers.wait(update)
    assert (update.state, block.state) == (TransferState.FAILED, BlockState.READY)
    assert block.filled == 10
    again = scene.tiers.update(block, 10, scene.write(0, b"2" * 10))
    scene.stream.drain()
    scene.tiers.wait(again)
    assert (again.state, block.filled) == (TransferState.DONE, 20)


def test_a_fence_that_cannot_be_made_fails_the_transfer(tmp_path: Path) -> None:
    scene = BY_HAND["cuda, two levels"](str(tmp_path))
    assert isinstance(scene.driver, CudaDriver)
    scene.driver._cuda.fail("cuEventRecord")
    block = scene.tiers.put(scene.write(0, b"x"))
    assert block is not None
    scene.tiers.wait(block)
    assert block.state is BlockState.FAILED
    stored(scene, b"y")
    scene.close()


def test_waiting_for_a_fence_is_not_copying(scene: Scene) -> None:
    block = scene.tiers.put(scene.write(0, b"s" * PIECE))
    assert block is not None
    time.sleep(0.6)
    scene.stream.drain()
    scene.tiers.wait(block)
    assert 0 < scene.tiers.stats.store_time < 0.5


def test_closing_waits_for_the_stream_and_copies_nothing(tmp_path: Path) -> None:
    scene = BY_HAND["host, two levels"](str(tmp_path))
    block = stored(scene, b"b" * PIECE)
    scene.tiers.get(block, scene.write(CHUNK, b"mine" * 10 + bytes(PIECE - 40)))
    scene.tiers.put(scene.write(0, b"c" * PIECE))
    pause()
    later = threading.Timer(0.05, scene.stream.drain)
    later.start()
    scene.tiers.close()
    assert len(scene.stream) == 0
    assert peek(scene, CHUNK, 40) == b"mine" * 10
    later.join()
    scene.driver.close()


def test_a_copier_forgets_what_it_gave_up_at_a_fence() -> None:
    """One thread each way: what sleeps at a fence holds up its own way only."""
    stream, copier = FakeStream(), ThreadCopier()
    done: list[str] = []

    def work(name: str) -> Callable[[], Iterator[int]]:
        def steps() -> Iterator[int]:
            done.append(name)
            yield 1

        return steps

    down = Transfer(Direction.DOWN, 1, work("down"), stream.fence())
    up = Transfer(Direction.UP, 1, work("up"))
    copier.submit(down)
    copier.submit(up)
    copier.wait(up)
    assert done == ["up"]
    assert copier.ended() == [up]
    copier.cancel(down)
    after = Transfer(Direction.DOWN, 1, work("after"), stream.fence())
    copier.submit(after)
    stream.drain()
    copier.wait(after)
    assert copier.ended() == [after]
    assert done == ["up", "after"]
    copier.close()


class TestEvents:
    """What a device sees of a fence."""

    @pytest.fixture
    def cuda(self) -> FakeCuda:
        made = FakeCuda(8 * CHUNK, CHUNK)
        made.computing[3] = FakeStream()
        return made

    def test_whoever_waits_sleeps(self, cuda: FakeCuda) -> None:
        fence = CudaDriver(bindings=cuda).fence(3)
        flags = cuda.CUevent_flags
        assert [event.flags for event in cuda.recorded] == [
            flags.CU_EVENT_BLOCKING_SYNC | flags.CU_EVENT_DISABLE_TIMING
        ]
        waiter = threading.Thread(target=fence.wait)
        waiter.start()
        pause()
        assert waiter.is_alive()
        assert not fence.passed()
        cuda.computing[3].advance()
        waiter.join()
        assert fence.passed()
        assert not cuda.events

    def test_a_fence_nobody_asks_any_more_leaves_no_event(self, cuda: FakeCuda) -> None:
        driver = CudaDriver(bindings=cuda)
        fence = driver.fence(3)
        assert len(cuda.events) == 1
        del fence
        assert not cuda.events
        late = driver.fence(3)
        driver.close()
        del late  # too late for its event, and no reason to fail

    def test_a_cancelled_transfer_leaves_no_event(self, cuda: FakeCuda, tmp_path: Path) -> None:
        scene = BY_HAND["cuda, two levels"](str(tmp_path))
        assert isinstance(scene.driver, CudaDriver)
        fake = scene.driver._cuda
        blocks = [scene.tiers.put(scene.write(i * CHUNK, b"x")) for i in range(3)]
        for block in blocks:
            assert block is not None
            scene.tiers.drop(block)
        del block, blocks
        scene.close()
        assert fake.idle

    def test_closing_lets_the_device_finish_first(self, cuda: FakeCuda) -> None:
        driver = CudaDriver(bindings=cuda)
        span = driver.reserve(1)
        driver.map(span, 0, driver.create(1))
        seen: list[int] = []
        cuda.computing[3].launch(lambda: seen.append(len(cuda.mappings)))
        driver.close()
        assert seen == [1]
        assert cuda.idle

    def test_work_that_failed_is_told_to_whoever_waits(self, cuda: FakeCuda) -> None:
        fence = CudaDriver(bindings=cuda).fence(3)
        cuda.computing[3].fail()
        cuda.computing[3].drain()
        for ask in (fence.wait, fence.passed):
            with pytest.raises(DriverError, match=CUresult.CUDA_ERROR_ILLEGAL_ADDRESS.name):
                ask()

    def test_a_mark_that_is_refused_says_so_when_it_is_asked(self, cuda: FakeCuda) -> None:
        driver = CudaDriver(bindings=cuda)
        cuda.fail("cuEventRecord")
        fence = fence_now(lambda: driver.fence(3))
        assert fence is not None
        for ask in (fence.wait, fence.passed):
            with pytest.raises(DriverError, match="cuEventRecord"):
                ask()
        assert fence_now(None) is None


def test_streams_differ_in_when_they_work() -> None:
    """What the scenes rest on."""
    done: list[int] = []
    lazy = FakeStream(Pace.LAZY)
    lazy.launch(lambda: done.append(1))
    mark = lazy.fence()
    lazy.launch(lambda: done.append(2))
    assert (done, mark.passed()) == ([], False)
    mark.wait()
    assert (done, mark.passed(), len(lazy)) == ([1], True, 1)
    at_once = FakeStream(Pace.NOW)
    at_once.launch(lambda: done.append(3))
    assert done == [1, 3]
    assert at_once.fence().passed()
