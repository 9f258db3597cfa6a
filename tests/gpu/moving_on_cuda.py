"""`tests/null/moving_memory.py` on a real device, as a program: an illegal access ends its process.

Prints how many looks, or bytes, of the device found something else than was meant, and what moved.
"unfenced" as an argument takes the fences of copies away, so that something must be found.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "null"))

import torch
from moving_memory import MovingMemory

from ellm.memory.drivers.cuda import CudaDriver
from ellm.memory.drivers.cuda_access import CudaAccess
from ellm.memory.fences import Fence
from ellm.memory.pool import ChunkPool
from ellm.memory.stores.file import FileStore
from ellm.memory.stores.host import HostStore
from ellm.memory.thread_copier import ThreadCopier
from ellm.memory.tiers import Tiers
from ellm.memory.unmapping import DeferredUnmaps
from ellm.runtime.views import view

CHUNKS = 18
STEPS = 1500
DAWDLE_CYCLES = 3_000_000  # between one and two milliseconds


class BusyStream:
    """moving_memory.Device: kernels on a stream that is kept busy.

    It is not the default stream, with which calls of the driver would be ordered.
    """

    def __init__(self, driver: CudaDriver) -> None:
        self._driver = driver
        words = driver.chunk_bytes // 8
        self._base = torch.arange(words, dtype=torch.int64, device="cuda") << 32
        self._wrong = torch.zeros(1, dtype=torch.int64, device="cuda")
        self._stream = torch.cuda.Stream()
        torch.cuda.synchronize()

    def fill(self, address: int, count: int, pattern: int) -> None:
        with torch.cuda.stream(self._stream):
            torch.add(self._base, pattern, out=view(address, count, torch.int64, "cuda"))

    def look(self, address: int, count: int, pattern: int) -> None:
        with torch.cuda.stream(self._stream):
            found = view(address, count, torch.int64, "cuda")
            self._wrong += (found != self._base + pattern).sum()

    def dawdle(self) -> None:
        with torch.cuda.stream(self._stream):
            torch.cuda._sleep(DAWDLE_CYCLES)

    def fence(self) -> Fence:
        return self._driver.fence(self._stream.cuda_stream)

    def finish(self) -> int:
        torch.cuda.synchronize()
        return int(self._wrong.item())


class Unfenced:
    """A fence that holds nobody up."""

    def passed(self) -> bool:
        return True

    def wait(self) -> None:
        pass


def main(directory: str, fenced: bool) -> dict[str, int]:
    torch.zeros(1, device="cuda")
    driver, access = CudaDriver(), CudaAccess()
    size = driver.chunk_bytes
    device = BusyStream(driver)
    copies: Callable[[], Fence] = device.fence if fenced else Unfenced
    pool = ChunkPool(driver, CHUNKS * size, DeferredUnmaps(driver, device.fence))
    top = HostStore(10 * size, access, slab_bytes=4 * size)
    base = FileStore(24 * size, access, directory)
    tiers = Tiers(base, access, ThreadCopier(), top, copies)
    memory = MovingMemory(pool, tiers, device, seed=0)
    wrong = memory.run(STEPS)
    moved = {"wrong": wrong, "spills": tiers.stats.spills, **memory.done}
    tiers.close()
    driver.close()
    return moved


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as where:
        print(json.dumps(main(where, "unfenced" not in sys.argv[1:])))
