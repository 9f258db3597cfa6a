"""Small tiers over small memory: every kind of store and copier, and a disk that fails."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fake_cuda import FakeCuda

from ellm.memory.disk import Disk
from ellm.memory.driver import Driver
from ellm.memory.drivers.cuda import CudaDriver
from ellm.memory.drivers.cuda_access import CudaAccess
from ellm.memory.drivers.host import HostDriver
from ellm.memory.drivers.null import NullDriver
from ellm.memory.extents import Access, DriverAccess, Extent, HostAccess
from ellm.memory.stores.file import FileStore
from ellm.memory.stores.host import HostStore
from ellm.memory.thread_copier import ThreadCopier
from ellm.memory.tiers import Tiers
from ellm.memory.timed_copier import TimedCopier
from ellm.memory.transfer import Copier
from ellm.sim.clock import VirtualClock

PIECE = 4096
CHUNK = 16 * 1024
RAM_CHUNKS = 8
BASE_PIECES = 12
TOP_PIECES = 8
RATE = 4096.0


class FaultyDisk(Disk):
    """After `arm(kind, n)` the n-th call of that kind fails, once; `room` is all there is left."""

    def __init__(self) -> None:
        super().__init__()
        self.kind = ""
        self.count = 0
        self.room: int | None = None
        self.file = -1
        self.punched: list[tuple[int, int]] = []

    def arm(self, kind: str, at: int = 1) -> None:
        self.kind, self.count = kind, at

    @property
    def armed(self) -> bool:
        return self.count > 0

    def _pass(self, kind: str) -> None:
        if kind == self.kind and self.count:
            self.count -= 1
            if not self.count:
                raise OSError(5, f"{kind} refused by the test")

    def open(self, directory: str) -> tuple[int, bool]:
        self.file, direct = super().open(directory)
        return self.file, direct

    def write(self, file: int, data: memoryview, offset: int) -> None:
        try:
            self._pass("write")
        except OSError:
            # Half of it gets there, as it may on a real disk.
            super().write(file, data[: len(data) // 2 // PIECE * PIECE], offset)
            raise
        super().write(file, data, offset)

    def read(self, file: int, into: memoryview, offset: int) -> None:
        self._pass("read")
        super().read(file, into, offset)

    def punch(self, file: int, ranges: Sequence[tuple[int, int]]) -> None:
        self.punched += ranges
        super().punch(file, ranges)

    def left(self, file: int) -> int:
        return super().left(file) if self.room is None else self.room

    def corrupt(self, offset: int) -> None:
        """Turn one bit of what the file holds."""
        file = os.open(f"/proc/self/fd/{self.file}", os.O_RDWR)
        byte = os.pread(file, 1, offset)
        os.pwrite(file, bytes([byte[0] ^ 1]) if byte else b"", offset)
        os.close(file)


@dataclass
class Scene:
    """Tiers, and the mapped memory above them: `RAM_CHUNKS` chunks from `address`."""

    driver: Driver
    address: int
    tiers: Tiers
    disk: FaultyDisk
    clock: VirtualClock
    host: HostStore | None

    @property
    def size(self) -> int:
        return RAM_CHUNKS * CHUNK

    def write(self, offset: int, data: bytes) -> list[Extent]:
        self.driver.copy_in(self.address + offset, data)
        return [(self.address + offset, len(data))]

    def read(self, extents: Sequence[Extent]) -> bytes:
        return b"".join(self.driver.copy_out(address, count) for address, count in extents)

    def scatter(self, data: bytes, extents: Sequence[Extent]) -> None:
        for address, count in extents:
            self.driver.copy_in(address, data[:count])
            data = data[count:]

    def settle(self) -> None:
        """Let everything come to rest, spills too."""
        while blocks := [b for lv in self.tiers._levels for b in lv.tenants if b.transfers]:
            self.tiers.wait(blocks[0])

    def close(self) -> None:
        self.tiers.close()
        self.driver.close()


def make_memory(kind: str) -> tuple[Driver, Access]:
    size = RAM_CHUNKS * CHUNK
    if kind == "null":
        null = NullDriver(size, CHUNK)
        return null, DriverAccess(null)
    if kind == "host":
        return HostDriver(size, CHUNK), HostAccess()
    cuda = FakeCuda(size, CHUNK)
    return CudaDriver(bindings=cuda), CudaAccess(bindings=cuda)


def make_scene(directory: str, driver: str, copier: str, top: bool) -> Scene:
    memory, access = make_memory(driver)
    span = memory.reserve(RAM_CHUNKS)
    memory.map(span, 0, memory.create(RAM_CHUNKS))
    clock, disk = VirtualClock(), FaultyDisk()
    lines: Copier = TimedCopier(clock, clock.advance, RATE) if copier == "timed" else ThreadCopier()
    base = FileStore(
        BASE_PIECES * PIECE,
        access,
        directory,
        piece_bytes=PIECE,
        step_bytes=2 * PIECE,
        disk=disk,
    )
    host = None
    if top:
        size = TOP_PIECES * PIECE
        host = HostStore(size, access, piece_bytes=PIECE, slab_bytes=3 * PIECE)
    return Scene(memory, span.address, Tiers(base, access, lines, host), disk, clock, host)


SCENES: dict[str, Callable[[str], Scene]] = {
    "null, timed": lambda where: make_scene(where, "null", "timed", False),
    "null, timed, two levels": lambda where: make_scene(where, "null", "timed", True),
    "cuda, timed, two levels": lambda where: make_scene(where, "cuda", "timed", True),
    "cuda, threads, two levels": lambda where: make_scene(where, "cuda", "threads", True),
    "host, threads": lambda where: make_scene(where, "host", "threads", False),
    "host, threads, two levels": lambda where: make_scene(where, "host", "threads", True),
}
