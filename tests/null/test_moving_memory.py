"""The stress that `tests/gpu/test_cuda_moving_memory.py` puts a real device under, proved here.

The device is a thread that works off a queue slowly, over host memory that is really mapped.
"""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from fake_stream import FakeStream, Mark, Worker
from moving_memory import MovingMemory

from ellm.core.errors import DriverError
from ellm.core.units import KIB
from ellm.memory.driver import Driver
from ellm.memory.drivers.host import HostDriver
from ellm.memory.drivers.null import NullDriver
from ellm.memory.extents import Access, DriverAccess, HostAccess
from ellm.memory.fences import Fence
from ellm.memory.pool import ChunkPool
from ellm.memory.stores.file import FileStore
from ellm.memory.stores.host import HostStore
from ellm.memory.thread_copier import ThreadCopier
from ellm.memory.tiers import Tiers
from ellm.memory.unmapping import DeferredUnmaps

CHUNK = 16 * KIB
CHUNKS = 18


class SlowDevice:
    """moving_memory.Device: a stream with a thread that works it off, over any driver."""

    def __init__(self, driver: Driver, seed: int) -> None:
        self._driver = driver
        self._stream = FakeStream()
        self._worker = Worker(self._stream, seed, pause=0.0003)
        self._wrong = 0

    def fill(self, address: int, count: int, pattern: int) -> None:
        self._stream.launch(lambda: self._fill(address, count, pattern))

    def look(self, address: int, count: int, pattern: int) -> None:
        self._stream.launch(lambda: self._look(address, count, pattern))

    def dawdle(self) -> None:
        self._stream.launch(lambda: time.sleep(0.002))

    def fence(self) -> Fence:
        return self._stream.fence()

    def finish(self) -> int:
        self._worker.stop()
        return self._wrong

    def _fill(self, address: int, count: int, pattern: int) -> None:
        try:
            self._driver.copy_in(address, pattern.to_bytes(8, "little") * (count // 8))
        except DriverError:  # it would be a fault of the device
            self._wrong += 1

    def _look(self, address: int, count: int, pattern: int) -> None:
        try:
            found = self._driver.copy_out(address, count)
        except DriverError:
            found = b""
        self._wrong += found != pattern.to_bytes(8, "little") * (count // 8)


def moved(
    where: Path, seed: int, driver: Driver, access: Access, unfenced: str = "", steps: int = 300
) -> tuple[int, MovingMemory]:
    """What looks found wrong; the fences of `unfenced` hold nobody up."""
    device = SlowDevice(driver, seed)

    def fence_of(name: str) -> Fence:
        if name != unfenced:
            return device.fence()
        mark = Mark(FakeStream())
        mark.reach(None)
        return mark

    unmaps = DeferredUnmaps(driver, lambda: fence_of("unmaps"))
    pool = ChunkPool(driver, CHUNKS * CHUNK, unmaps)
    top = HostStore(10 * CHUNK, access, slab_bytes=4 * CHUNK, piece_bytes=CHUNK // 2)
    base = FileStore(24 * CHUNK, access, str(where), piece_bytes=CHUNK // 2, step_bytes=CHUNK)
    tiers = Tiers(base, access, ThreadCopier(), top, lambda: fence_of("tiers"))
    memory = MovingMemory(pool, tiers, device, seed)
    wrong = memory.run(steps)
    tiers.close()
    driver.close()
    return wrong, memory


@pytest.mark.parametrize("seed", range(3))
def test_nothing_is_unmapped_or_overwritten_under_work_that_runs(seed: int, tmp_path: Path) -> None:
    wrong, memory = moved(tmp_path, seed, HostDriver(CHUNKS * CHUNK, CHUNK), HostAccess())
    assert wrong == 0
    for what in ("ended", "left", "taken back", "returned", "cancelled"):
        assert memory.done[what] > 5, memory.done
    assert memory.tiers.stats.spills > 0


@pytest.mark.parametrize("unfenced", ["unmaps", "tiers"])
def test_without_a_fence_it_would_show(unfenced: str, tmp_path: Path) -> None:
    driver = NullDriver(CHUNKS * CHUNK, CHUNK)  # real memory would end this process
    wrong, _ = moved(tmp_path, 0, driver, DriverAccess(driver), unfenced, steps=150)
    assert wrong > 0
