"""The CUDA driver over a stand-in for its bindings: call counts, threads, shortage, failures."""

from __future__ import annotations

import importlib
import sys
import threading
from collections.abc import Callable

import pytest
from fake_cuda import CUresult, FakeCuda
from test_driver import CHUNK, ROOM, Scene, read, write

from ellm.core.errors import ConfigError, DriverError, DriverUnavailable
from ellm.memory.drivers.cuda import CudaDriver


@pytest.fixture
def cuda() -> FakeCuda:
    return FakeCuda(ROOM * CHUNK, CHUNK)


def test_the_device_says_how_large_a_chunk_is(cuda: FakeCuda) -> None:
    assert CudaDriver(bindings=cuda).chunk_bytes == CHUNK
    assert CudaDriver(bindings=cuda, chunk_bytes=4 * CHUNK).chunk_bytes == 4 * CHUNK
    for size in (0, CHUNK // 2, CHUNK + 4096):
        with pytest.raises(ConfigError, match=f"multiple of the device's {CHUNK}"):
            CudaDriver(bindings=cuda, chunk_bytes=size)


def test_access_is_set_once_a_run_and_unmapping_is_one_call(cuda: FakeCuda) -> None:
    driver = CudaDriver(bindings=cuda)
    span = driver.reserve(8)
    driver.map(span, 0, driver.create(8))
    assert (cuda.calls["cuMemMap"], cuda.calls["cuMemSetAccess"]) == (8, 1)
    driver.unmap(span, 0, 8)
    assert cuda.calls["cuMemUnmap"] == 1


def test_chunks_are_created_once_however_often_they_are_mapped(cuda: FakeCuda) -> None:
    driver = CudaDriver(bindings=cuda)
    span = driver.reserve(2)
    chunks = driver.create(2)
    for _ in range(5):
        driver.map(span, 0, chunks)
        driver.unmap(span, 0, 2)
    assert (cuda.calls["cuMemCreate"], cuda.calls["cuMemRelease"]) == (2, 0)


def test_any_thread_may_call_and_keeps_its_own_context(cuda: FakeCuda) -> None:
    driver = CudaDriver(bindings=cuda)
    span = driver.reserve(1)
    seen = []

    def elsewhere() -> None:
        cuda.cuCtxPushCurrent("the thread's own")
        driver.map(span, 0, driver.create(1))
        write(driver, span, 0, b"hello")
        seen.append(cuda.cuCtxPopCurrent()[1])

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert seen == ["the thread's own"]
    assert read(driver, span, 0, 5) == b"hello"


def test_a_shortage_empties_the_frameworks_cache_once() -> None:
    cuda = FakeCuda(ROOM * CHUNK, CHUNK, cached=6 * CHUNK)
    asked = []

    def empty_cache() -> None:
        asked.append(len(cuda.handles))
        cuda.cached = 0

    driver = CudaDriver(bindings=cuda, on_shortage=empty_cache)
    assert len(driver.create(10)) == 10
    assert asked == []
    assert len(driver.create(6)) == 6
    assert asked == [10]
    with pytest.raises(DriverError, match=r"64 KiB: CUDA_ERROR_OUT_OF_MEMORY; lower --memory"):
        driver.create(1)
    assert asked == [10, 16]
    assert driver.physical_bytes() == ROOM * CHUNK == sum(len(h.data) for h in cuda.handles)


def test_only_a_shortage_is_tried_again(cuda: FakeCuda) -> None:
    driver = CudaDriver(bindings=cuda, on_shortage=lambda: pytest.fail("not short"))
    cuda.fail("cuMemCreate", after=1)
    with pytest.raises(DriverError, match="CUDA_ERROR_UNKNOWN"):
        driver.create(3)
    assert not cuda.handles


def test_closing_leaves_nothing_on_the_device(cuda: FakeCuda) -> None:
    driver = CudaDriver(bindings=cuda)
    Scene(driver)
    driver.reserve(2)
    assert not cuda.idle
    driver.close()
    assert cuda.idle


def test_a_device_that_refuses_everything_can_be_closed(
    cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After an illegal access every call fails: the process must still get on with its end."""
    driver = CudaDriver(bindings=cuda)
    Scene(driver)
    tried: list[str] = []

    def refused(function: Callable[..., object], *arguments: object) -> object:
        tried.append(function.__name__)
        raise DriverError("an illegal memory access was encountered")

    monkeypatch.setattr(driver, "_call", refused)
    driver.close()
    for name in ("cuCtxSynchronize", "cuMemUnmap", "cuMemAddressFree", "cuMemRelease"):
        assert name in tried
    tried.clear()
    driver.close()
    assert not tried


OPERATIONS: dict[str, tuple[str, Callable[[Scene], object]]] = {
    "reserve": ("cuMemAddressReserve", lambda s: s.driver.reserve(2)),
    "create": ("cuMemCreate", lambda s: s.driver.create(3)),
    "map": ("cuMemMap", lambda s: s.driver.map(s.span, 6, [s.spare, s.chunks[0]])),
    "give access": ("cuMemSetAccess", lambda s: s.driver.map(s.span, 3, [s.spare])),
    "unmap": ("cuMemUnmap", lambda s: s.driver.unmap(s.span, 1, 2)),
    "destroy": ("cuMemRelease", lambda s: s.driver.destroy([s.spare])),
    "destroy several": ("cuMemRelease", lambda s: s.driver.destroy([s.spare, *s.extra])),
    "release": ("cuMemAddressFree", lambda s: s.driver.release(s.other)),
    "copy": ("cuMemcpyDtoD", lambda s: s.driver.copy(s.span.address + 5 * CHUNK, *s.middle)),
    "copy in": ("cuMemcpyHtoD", lambda s: write(s.driver, s.span, 2, b"no")),
    "copy out": ("cuMemcpyDtoH", lambda s: read(s.driver, s.span, 2, 2)),
    "enter": ("cuCtxPushCurrent", lambda s: s.driver.create(1)),
}


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_driver_call_that_fails_midway_is_undone(operation: str) -> None:
    call, action = OPERATIONS[operation]
    failed = 0
    while True:
        cuda = FakeCuda(ROOM * CHUNK, CHUNK)
        driver = CudaDriver(bindings=cuda)
        scene = Scene(driver)
        scene.middle = (scene.span.address + CHUNK, 8)
        scene.other = driver.reserve(2)
        scene.extra = driver.create(2)
        reserved = set(cuda.reservations)
        cuda.fail(call, after=failed)
        try:
            action(scene)
        except DriverError as error:
            message = str(error)
        else:
            break
        failed += 1
        assert "CUDA_ERROR_UNKNOWN" in message
        assert set(cuda.reservations) == reserved
        assert len(cuda.handles) == 6
        assert all(mapping.access for mapping in cuda.mappings.values())
        driver.destroy(scene.extra)
        scene.check()
        driver.close()
        assert cuda.idle
    assert failed == {"create": 3, "map": 2, "destroy several": 3}.get(operation, 1)


def test_no_package_is_said_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    monkeypatch.setitem(sys.modules, "cuda.bindings.driver", None)
    with pytest.raises(DriverUnavailable, match="pip install cuda-bindings"):
        CudaDriver()


def test_no_driver_library_is_said_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = FakeCuda(ROOM * CHUNK)

    def no_library(flags: int) -> tuple[CUresult]:
        raise RuntimeError('"cuda" is an NVIDIA driver library and was not found')

    monkeypatch.setattr(cuda, "cuInit", no_library)
    monkeypatch.setattr(importlib, "import_module", lambda name: cuda)
    with pytest.raises(DriverUnavailable, match=r"no CUDA driver on this machine.*host memory"):
        CudaDriver()


def test_a_device_that_cannot_is_said(cuda: FakeCuda) -> None:
    with pytest.raises(DriverUnavailable, match="no CUDA device 3: 1 found"):
        CudaDriver(3, bindings=cuda)
    with pytest.raises(DriverUnavailable, match="no CUDA device 0: 0 found"):
        CudaDriver(bindings=FakeCuda(0, devices=0))
    cuda.fail("cuInit")
    with pytest.raises(DriverUnavailable, match="no CUDA driver on this machine"):
        CudaDriver(bindings=cuda)
    cuda.virtual_memory = 0
    with pytest.raises(DriverUnavailable, match="no virtual memory management"):
        CudaDriver(bindings=cuda)
    assert cuda.retained == 0


def test_a_fence_passes_when_its_stream_has_got_there(cuda: FakeCuda) -> None:
    driver = CudaDriver(bindings=cuda)
    cuda.queued[7] = 3
    fence = driver.fence(7)
    cuda.queued[7] = 5
    cuda.done[7] = 2
    assert not fence.passed()
    fence.wait()
    assert cuda.done[7] == 3
    assert fence.passed()
    assert fence.passed()
    fence.wait()
    assert not cuda.events
    assert driver.total_bytes == ROOM * CHUNK
    driver.close()
    assert cuda.idle


@pytest.mark.parametrize("call", ["cuEventCreate", "cuEventRecord"])
def test_a_refused_fence_leaves_no_event(call: str, cuda: FakeCuda) -> None:
    driver = CudaDriver(bindings=cuda)
    cuda.fail(call)
    with pytest.raises(DriverError, match=call):
        driver.fence(0)
    assert not cuda.events


def test_a_fence_tells_of_work_that_failed(cuda: FakeCuda) -> None:
    fence = CudaDriver(bindings=cuda).fence(0)
    cuda.fail("cuEventQuery", result=CUresult.CUDA_ERROR_ILLEGAL_ADDRESS)
    with pytest.raises(DriverError, match="ILLEGAL_ADDRESS"):
        fence.passed()
