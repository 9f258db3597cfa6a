"""PyTorch's allocator callbacks, called as PyTorch calls them: by address, from C, on any thread.

The CUDA driver is a stand-in, and so are the two entry points of PyTorch.
"""

from __future__ import annotations

import ctypes
import logging
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).parents[1] / "null"))

from fake_cuda import CUresult, FakeCuda

import ellm
from ellm.core.errors import ConfigError, DriverUnavailable
from ellm.llm import torch_allocator as wiring
from ellm.memory.drivers.cuda import CudaDriver
from ellm.memory.pool import ChunkPool
from ellm.memory.stitching import StitchingAllocator
from ellm.runtime.torch_allocator import TorchAllocator

CHUNK = 1 << 16
ROOM = 16


class FakeTorch:
    """PyTorch's side: it keeps addresses, and a table of what it allocated."""

    def __init__(self) -> None:
        self.current: FakeTorch | None = None
        self.sizes: dict[int, tuple[int, int, int]] = {}

    def custom_allocator(self, allocate: int, free: int) -> FakeTorch:
        pointer, size, number = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
        self.allocate_fn = ctypes.CFUNCTYPE(pointer, size, number, pointer)(allocate)
        self.free_fn = ctypes.CFUNCTYPE(None, pointer, size, number, pointer)(free)
        return self

    def set_record_stream_fn(self, address: int) -> None:
        self.record_fn = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p)(address)

    def set_reset_fn(self, address: int) -> None:
        self.empty_cache = ctypes.CFUNCTYPE(None)(address)

    def change_current_allocator(self, allocator: FakeTorch) -> None:
        self.current = allocator

    def malloc(self, size: int, device: int = 0, stream: int = 0) -> int | None:
        address: int | None = self.allocate_fn(size, device, stream)
        if address is not None:
            assert address not in self.sizes
            self.sizes[address] = size, device, stream
        return address

    def take(self, size: int, device: int = 0, stream: int = 0) -> int:
        address = self.malloc(size, device, stream)
        assert address is not None, size
        return address

    def free(self, address: int) -> None:
        self.free_fn(address, *self.sizes.pop(address))


class Scene:
    """An allocator installed in a stand-in for PyTorch, over stand-ins for two devices."""

    def __init__(self) -> None:
        self.cuda = [FakeCuda(ROOM * CHUNK, CHUNK) for _ in range(2)]
        # Addresses are unique over all devices of a process.
        self.cuda[1]._next_address *= 2
        self.drivers: dict[int, CudaDriver] = {}
        self.torch = FakeTorch()
        self.allocator = TorchAllocator(self.open)
        self.allocator.install(self.torch)
        assert self.torch.current is self.torch

    def open(self, index: int) -> StitchingAllocator:
        driver = self.drivers[index] = CudaDriver(bindings=self.cuda[index])
        pool = ChunkPool(driver, driver.total_bytes)
        return StitchingAllocator(pool, "torch", fence=driver.fence)

    def reserved(self, device: int = 0) -> int:
        stats = self.allocator.stats(device)
        return 0 if stats is None else stats.reserved


@pytest.fixture
def scene() -> Iterator[Scene]:
    made = Scene()
    yield made
    made.allocator.check()


def elsewhere(action: Callable[[], object]) -> None:
    """Run in another thread, to its end."""
    thread = threading.Thread(target=action)
    thread.start()
    thread.join(20)
    assert not thread.is_alive()


def test_without_cuda_it_says_what_to_do() -> None:
    with pytest.raises(DriverUnavailable, match="finds no CUDA device here: leave it out"):
        ellm.torch_allocator().__enter__()


def test_it_comes_too_late_when_cuda_is_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch._C, "_cuda_customAllocator", object(), raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: 1 << 20)
    with pytest.raises(ConfigError, match="too late, CUDA is in use already"):
        ellm.torch_allocator().__enter__()


def test_the_context_wires_devices_and_gives_the_cache_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cuda, fake = FakeCuda(ROOM * CHUNK, CHUNK), FakeTorch()
    monkeypatch.setattr(wiring, "CudaDriver", lambda index: CudaDriver(index, bindings=cuda))
    with ellm.torch_allocator(4 * CHUNK, binding=fake) as allocator:
        assert allocator.stats() is None
        kept, gone = fake.take(CHUNK), fake.take(2 * CHUNK)
        assert fake.malloc(2 * CHUNK) is None
        fake.free(gone)
        assert len(cuda.handles) == 3
    assert len(cuda.handles) == 1
    # Still in force: PyTorch cannot go back.
    fake.take(CHUNK)
    fake.free(kept)
    stats = allocator.stats()
    assert stats is not None
    assert stats.active == CHUNK


def test_memory_that_pytorch_gets_can_be_written_and_read(scene: Scene) -> None:
    addresses = [scene.torch.take(CHUNK) for _ in range(5)]
    for address in addresses[::2]:
        scene.torch.free(address)
    stitched = scene.torch.take(3 * CHUNK)
    data = bytes(range(256)) * (3 * CHUNK // 256)
    scene.drivers[0].copy_in(stitched, data)
    assert scene.drivers[0].copy_out(stitched, len(data)) == data
    assert scene.reserved() == 5 * CHUNK


def test_out_of_memory_is_null_and_a_line_in_the_log(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    held = scene.torch.take((ROOM - 1) * CHUNK)
    assert scene.torch.malloc(2 * CHUNK) is None
    assert "out of memory on CUDA device 0: 128 KiB more were asked for" in caplog.text
    scene.torch.free(held)
    scene.torch.take(2 * CHUNK)


def test_what_the_device_refuses_is_null_too(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    scene.cuda[0].cached = (ROOM - 1) * CHUNK
    assert scene.torch.malloc(2 * CHUNK) is None
    assert "CUDA_ERROR_OUT_OF_MEMORY" in caplog.text


def test_nothing_at_all_is_null_without_a_word(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    assert scene.torch.malloc(0) is None
    scene.torch.free_fn(None, 0, 0, None)
    scene.torch.record_fn(None, None)
    assert not caplog.records
    assert scene.allocator.stats() is None


def test_no_exception_leaves_a_callback(caplog: pytest.LogCaptureFixture) -> None:
    def refuse(index: int) -> StitchingAllocator:
        raise MemoryError(f"no device {index}")

    fake = FakeTorch()
    TorchAllocator(refuse).install(fake)
    assert fake.malloc(1, device=3) is None
    assert "no device 3" in caplog.text
    assert caplog.records[0].levelno == logging.ERROR


def test_an_interrupt_in_a_callback_comes_a_moment_later(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    cuda, fake = FakeCuda(ROOM * CHUNK, CHUNK), FakeTorch()

    def interrupted(index: int) -> CudaDriver:
        signal.raise_signal(signal.SIGINT)
        return CudaDriver(index, bindings=cuda)

    monkeypatch.setattr(wiring, "CudaDriver", interrupted)
    before = signal.getsignal(signal.SIGINT)
    taken: list[int] = []

    def program() -> None:
        with ellm.torch_allocator(binding=fake):
            taken.append(fake.take(CHUNK))
            time.sleep(20)

    with pytest.raises(KeyboardInterrupt):
        program()
    assert taken
    assert not caplog.records
    assert signal.getsignal(signal.SIGINT) is before


def test_a_device_is_opened_by_the_thread_that_first_wants_it(scene: Scene) -> None:
    elsewhere(lambda: scene.torch.take(CHUNK, device=1))
    assert set(scene.drivers) == {1}
    scene.torch.take(3 * CHUNK, device=0)
    assert (scene.reserved(0), scene.reserved(1)) == (3 * CHUNK, CHUNK)


def test_threads_may_allocate_and_free_at_once(scene: Scene) -> None:
    failures: list[BaseException] = []

    def work(seed: int) -> None:
        try:
            for turn in range(150):
                address = scene.torch.take(1 + (seed * 7919 + turn * 104729) % CHUNK, stream=seed)
                scene.drivers[0].copy_in(address, b"%d" % seed)
                assert scene.drivers[0].copy_out(address, 1) == b"%d" % seed
                scene.torch.free(address)
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not failures
    stats = scene.allocator.stats()
    assert stats is not None
    assert stats.active == 0


def test_the_garbage_collector_may_free_in_the_middle_of_an_allocation(scene: Scene) -> None:
    kept, gone = scene.torch.take(CHUNK), scene.torch.take(CHUNK)
    memory = scene.allocator._devices[0]
    allocate, seen = memory.allocate, list[bool]()

    def collecting(size: int, stream: int = 0) -> int | None:
        scene.torch.free(gone)
        seen.append(memory.size_of(gone) is not None)
        # An allocation there cannot be served, and must not hang.
        seen.append(scene.torch.malloc(1) is None)
        return allocate(size, stream)

    memory.allocate = collecting  # type: ignore[method-assign]
    scene.torch.take(CHUNK)
    memory.allocate = allocate  # type: ignore[method-assign]
    assert seen == [True, True]
    assert memory.size_of(gone) is None
    assert memory.size_of(kept) == CHUNK


def test_a_free_does_not_wait_for_a_thread_that_allocates(scene: Scene) -> None:
    address = scene.torch.take(CHUNK)
    inside, leave = threading.Event(), threading.Event()
    memory = scene.allocator._devices[0]
    allocate = memory.allocate

    def slow(size: int, stream: int = 0) -> int | None:
        inside.set()
        assert leave.wait(20)
        return allocate(size, stream)

    memory.allocate = slow  # type: ignore[method-assign]
    thread = threading.Thread(target=lambda: scene.torch.take(CHUNK))
    thread.start()
    assert inside.wait(20)
    scene.torch.free(address)
    assert memory.size_of(address) == CHUNK
    leave.set()
    thread.join(20)
    assert memory.size_of(address) is None


def test_a_tensor_used_on_another_stream_is_kept_until_that_is_done(scene: Scene) -> None:
    cuda = scene.cuda[0]
    address = scene.torch.take(CHUNK, stream=5)
    scene.torch.record_fn(address, 6)
    cuda.queued[6] = 1
    scene.torch.free(address)
    assert scene.torch.take(CHUNK, stream=5) != address
    cuda.done[6] = 1
    assert scene.torch.take(CHUNK, stream=5) == address


def test_emptying_pytorchs_cache_gives_chunks_back(scene: Scene) -> None:
    scene.torch.free(scene.torch.take(4 * CHUNK))
    assert len(scene.cuda[0].handles) == 4
    scene.torch.empty_cache()
    assert not scene.cuda[0].handles


def test_a_failing_device_is_logged_and_not_raised(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    address = scene.torch.take(CHUNK, stream=1)
    scene.torch.record_fn(address, 2)
    scene.cuda[0].fail("cuEventRecord", result=CUresult.CUDA_ERROR_ILLEGAL_ADDRESS)
    scene.torch.free(address)
    assert "cuEventRecord was refused: CUDA_ERROR_ILLEGAL_ADDRESS" in caplog.text
    scene.allocator.check()
