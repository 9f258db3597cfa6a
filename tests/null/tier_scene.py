"""Small tiers over small memory: every kind of store and copier, and a disk that fails.

In a scene with a stream, what is written above is written by work of that stream: it gets there
when the stream does, and whoever copies without waiting for the fence finds something else.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fake_cuda import FakeCuda
from fake_stream import FakeStream, Pace

from ellm.memory.disk import Disk
from ellm.memory.driver import Driver
from ellm.memory.drivers.cuda import CudaDriver
from ellm.memory.drivers.cuda_access import CudaAccess
from ellm.memory.drivers.host import HostDriver
from ellm.memory.drivers.null import NullDriver
from ellm.memory.extents import Access, DriverAccess, Extent, HostAccess
from ellm.memory.fences import Fence
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
COMPUTE = 7


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
    stream: FakeStream

    @property
    def size(self) -> int:
        return RAM_CHUNKS * CHUNK

    def write(self, offset: int, data: bytes) -> list[Extent]:
        self.scatter(data, [(self.address + offset, len(data))])
        return [(self.address + offset, len(data))]

    def read(self, extents: Sequence[Extent]) -> bytes:
        """What is there once the stream has done all it was given."""
        self.stream.drain()
        return b"".join(self.driver.copy_out(address, count) for address, count in extents)

    def scatter(self, data: bytes, extents: Sequence[Extent]) -> None:
        self.stream.launch(lambda: self.put_there(data, extents))

    def put_there(self, data: bytes, extents: Sequence[Extent]) -> None:
        """Now, whatever the stream does."""
        for address, count in extents:
            self.driver.copy_in(address, data[:count])
            data = data[count:]

    def settle(self) -> None:
        """Let everything come to rest, spills too."""
        while blocks := [b for lv in self.tiers._levels for b in lv.tenants if b.transfers]:
            self.tiers.wait(blocks[0])

    def close(self) -> None:
        self.stream.drain()
        self.tiers.close()
        self.driver.close()


def make_memory(kind: str, stream: FakeStream) -> tuple[Driver, Access, Callable[[], Fence]]:
    """Some memory, the way to reach it, and a mark in the stream of what uses it."""
    size = RAM_CHUNKS * CHUNK
    if kind == "null":
        null = NullDriver(size, CHUNK)
        return null, DriverAccess(null), stream.fence
    if kind == "host":
        return HostDriver(size, CHUNK), HostAccess(), stream.fence
    cuda = FakeCuda(size, CHUNK)
    cuda.computing[COMPUTE] = stream
    driver = CudaDriver(bindings=cuda)
    return driver, CudaAccess(bindings=cuda), lambda: driver.fence(COMPUTE)


def make_scene(directory: str, driver: str, copier: str, top: bool, pace: Pace = Pace.NOW) -> Scene:
    stream = FakeStream(pace)
    memory, access, fence = make_memory(driver, stream)
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
    tiers = Tiers(base, access, lines, host, None if pace is Pace.NOW else fence)
    return Scene(memory, span.address, tiers, disk, clock, host, stream)


SCENES: dict[str, Callable[[str], Scene]] = {
    "null, timed": lambda where: make_scene(where, "null", "timed", False),
    "null, timed, two levels": lambda where: make_scene(where, "null", "timed", True),
    "cuda, timed, two levels": lambda where: make_scene(where, "cuda", "timed", True),
    "cuda, threads, two levels": lambda where: make_scene(where, "cuda", "threads", True),
    "host, threads": lambda where: make_scene(where, "host", "threads", False),
    "host, threads, two levels": lambda where: make_scene(where, "host", "threads", True),
    "host, fenced threads": lambda where: make_scene(where, "host", "threads", False, Pace.LAZY),
    "host, fenced threads, two levels": lambda where: make_scene(
        where, "host", "threads", True, Pace.LAZY
    ),
    "cuda, fenced threads, two levels": lambda where: make_scene(
        where, "cuda", "threads", True, Pace.LAZY
    ),
}

# As the last ones, with a stream that gets on when the test lets it.
BY_HAND: dict[str, Callable[[str], Scene]] = {
    "host": lambda where: make_scene(where, "host", "threads", False, Pace.BY_HAND),
    "host, two levels": lambda where: make_scene(where, "host", "threads", True, Pace.BY_HAND),
    "cuda, two levels": lambda where: make_scene(where, "cuda", "threads", True, Pace.BY_HAND),
}
