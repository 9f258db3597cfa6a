"""The host driver against the real kernel: pages, mappings, forks, and calls that fail midway."""

from __future__ import annotations

import ctypes
import errno
import faulthandler
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_driver import CHUNK, ROOM, Scene, read, write

from ellm.core.errors import ConfigError, DriverError
from ellm.memory.driver import Span
from ellm.memory.drivers import linux
from ellm.memory.drivers.host import HostDriver
from ellm.memory.drivers.linux import Linux


@pytest.fixture
def driver() -> Iterator[HostDriver]:
    made = HostDriver(ROOM * CHUNK, CHUNK)
    yield made
    made.close()


def resident_bytes() -> int:
    """Shared memory in this process's resident set, counted page by page."""
    rollup = Path("/proc/self/smaps_rollup").read_text()
    fields = dict(line.split(":", 1) for line in rollup.splitlines()[1:])
    return int(fields["Pss_Shmem"].split()[0]) * 1024


def kernel_mappings(*spans: Span, chunk: int = CHUNK) -> list[tuple[int, int, str]]:
    """(start, stop, permissions) of every mapping within the spans, as the kernel lists them."""
    found = []
    for line in Path("/proc/self/maps").read_text().splitlines():
        place, permissions = line.split()[:2]
        start, stop = (int(part, 16) for part in place.split("-"))
        for span in spans:
            low, high = span.address, span.address + span.slots * chunk
            if start < high and low < stop:
                found.append((max(start, low), min(stop, high), permissions))
    return found


def death_of(action: Callable[[], object]) -> int:
    """The signal that kills a forked child which does this; 0 if it lives."""
    child = os.fork()
    if not child:
        faulthandler.disable()
        try:
            action()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) * -1


def test_destroyed_chunks_leave_the_resident_set(driver: HostDriver) -> None:
    span = driver.reserve(ROOM)
    chunks = driver.create(ROOM)
    before = resident_bytes()
    driver.map(span, 0, chunks)
    assert resident_bytes() - before == ROOM * CHUNK
    driver.unmap(span, 0, ROOM)
    driver.destroy(chunks[::2])
    assert resident_bytes() == before
    assert driver.physical_bytes() == ROOM // 2 * CHUNK


def test_a_recycled_chunk_holds_old_data_and_a_new_one_zeros(driver: HostDriver) -> None:
    span = driver.reserve(1)
    chunks = driver.create(1)
    driver.map(span, 0, chunks)
    write(driver, span, 0, b"old")
    driver.unmap(span, 0, 1)
    driver.map(span, 0, chunks)
    assert read(driver, span, 0, 3) == b"old"
    driver.unmap(span, 0, 1)
    driver.destroy(chunks)
    driver.map(span, 0, driver.create(1))
    assert read(driver, span, 0, 3) == b"\0\0\0"


def test_touching_an_unmapped_slot_kills(driver: HostDriver) -> None:
    span = driver.reserve(3)
    driver.map(span, 1, driver.create(1))
    slots = [span.address + slot * CHUNK for slot in range(3)]
    assert death_of(lambda: ctypes.string_at(slots[0], 1)) == signal.SIGSEGV
    assert death_of(lambda: ctypes.string_at(slots[1], CHUNK)) == 0
    assert death_of(lambda: ctypes.memset(slots[2], 0, 1)) == signal.SIGSEGV
    driver.unmap(span, 1, 1)
    assert death_of(lambda: ctypes.string_at(slots[1], 1)) == signal.SIGSEGV


def test_the_last_byte_of_the_last_chunk_is_memory(driver: HostDriver) -> None:
    span = driver.reserve(ROOM)
    driver.map(span, 0, driver.create(ROOM))
    last = span.address + ROOM * CHUNK - 1
    assert death_of(lambda: ctypes.memset(last, 7, 1)) == 0
    assert driver.copy_out(last, 1) == b"\7"


@settings(max_examples=40)
@given(data=st.data())
def test_the_kernel_mappings_are_counted_exactly(data: st.DataObject) -> None:
    driver = HostDriver(ROOM * CHUNK, CHUNK)
    spans = [driver.reserve(12), driver.reserve(12)]
    chunks = driver.create(ROOM)
    mapped: dict[tuple[int, int], int] = {}
    for _ in range(data.draw(st.integers(1, 6))):
        which = data.draw(st.integers(0, 1))
        slot = data.draw(st.integers(0, 11))
        count = data.draw(st.integers(1, 12 - slot))
        slots = [(which, at) for at in range(slot, slot + count)]
        if all(place in mapped for place in slots):
            driver.unmap(spans[which], slot, count)
            for place in slots:
                del mapped[place]
        elif not any(place in mapped for place in slots):
            picked = data.draw(st.lists(st.sampled_from(chunks), min_size=count, max_size=count))
            driver.map(spans[which], slot, picked)
            mapped.update(zip(slots, picked, strict=True))
    seen = kernel_mappings(*spans)
    assert driver.kernel_mappings == len(seen)
    barred = sum(stop - start for start, stop, allowed in seen if allowed == "---p")
    assert barred == (24 - len(mapped)) * CHUNK
    driver.close()


def test_chunks_that_follow_each_other_are_one_kernel_mapping(driver: HostDriver) -> None:
    span = driver.reserve(ROOM)
    chunks = driver.create(ROOM)
    for slot in (4, 6, 5, 3):
        driver.map(span, slot, [chunks[slot]])
    assert driver.kernel_mappings == len(kernel_mappings(span)) == 3
    driver.unmap(span, 4, 1)
    assert driver.kernel_mappings == len(kernel_mappings(span)) == 5


def test_scattered_chunks_are_refused_before_the_kernel_refuses() -> None:
    driver = HostDriver(ROOM * CHUNK, CHUNK, map_limit=6)
    span = driver.reserve(ROOM)
    chunks = driver.create(ROOM)
    driver.map(span, 0, chunks[:12])
    driver.unmap(span, 0, 12)
    driver.map(span, 0, [chunks[0], chunks[2], chunks[4], chunks[6]])
    assert driver.kernel_mappings == 5
    with pytest.raises(DriverError, match=r"7 kernel mappings.* 6 allowed.*sysctl -w vm.max_map"):
        driver.map(span, 4, [chunks[8], chunks[10]])
    assert driver.kernel_mappings == len(kernel_mappings(span)) == 5
    driver.map(span, 4, [chunks[8], chunks[9]])
    assert driver.kernel_mappings == 6
    with pytest.raises(DriverError, match=r"vm\.max_map_count"):
        driver.reserve(1)
    driver.close()


def test_the_default_limit_is_what_the_process_leaves() -> None:
    class Small(Linux):
        def max_mappings(self) -> int:
            return 80

        def mappings(self) -> int:
            return 60

    driver = HostDriver(ROOM * CHUNK, CHUNK, system=Small())
    span = driver.reserve(2 * ROOM)
    chunks = driver.create(ROOM)
    for slot in range(4):
        driver.map(span, 2 * slot + 1, [chunks[slot]])
    assert driver.kernel_mappings == 9
    with pytest.raises(DriverError, match=r"11 .* 10 allowed .*is 80.*max_map_count=320"):
        driver.map(span, 11, [chunks[9]])
    driver.close()


def test_a_chunk_must_be_whole_pages() -> None:
    for size in (0, 1000, 4096 + 512):
        with pytest.raises(ConfigError, match="multiple of the page"):
            HostDriver(1 << 20, size)


def test_an_absurd_budget_is_refused() -> None:
    before = len(os.listdir("/proc/self/fd"))
    for budget in (1 << 63, 1 << 70):
        with pytest.raises(DriverError, match="lower --memory"):
            HostDriver(budget, CHUNK)
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_fork_may_read_but_not_change(driver: HostDriver) -> None:
    scene = Scene(driver)

    def child() -> None:
        assert read(driver, scene.span, 1, 6) == b"slot 1"
        for change in (
            lambda: driver.create(1),
            lambda: driver.map(scene.span, 0, [scene.spare]),
            lambda: driver.enlarge_pages(scene.span, 1, 1),
            lambda: driver.unmap(scene.span, 1, 1),
            lambda: driver.destroy([scene.spare]),
            lambda: driver.reserve(1),
            lambda: driver.release(scene.span),
        ):
            with pytest.raises(DriverError, match="fork"):
                change()
        driver.close()
        os.kill(os.getpid(), signal.SIGUSR1)

    assert death_of(child) == signal.SIGUSR1
    scene.check()


class Failing(Linux):
    """Fails the call number `at` of one kind; `torn` takes the old mapping away first, as a
    kernel may that fails late."""

    def __init__(self, torn: bool = False) -> None:
        super().__init__()
        self.kind = ""
        self.left = 0
        self.torn = torn

    def arm(self, kind: str, at: int) -> None:
        self.kind, self.left = kind, at

    @property
    def spent(self) -> bool:
        return self.left < 1

    def _fails(self, kind: str) -> bool:
        if kind == self.kind:
            self.left -= 1
            return self.left == 0
        return False

    def mmap(
        self, address: int | None, length: int, prot: int, flags: int, fd: int = -1, offset: int = 0
    ) -> int:
        if self._fails("mmap"):
            if self.torn and address is not None:
                self.munmap(address, length)
            raise OSError(errno.ENOMEM, "mmap: refused by the test")
        return super().mmap(address, length, prot, flags, fd, offset)

    def fallocate(self, fd: int, mode: int, offset: int, length: int) -> None:
        if self._fails("fallocate"):
            raise OSError(errno.ENOSPC, "fallocate: refused by the test")
        super().fallocate(fd, mode, offset, length)

    def munmap(self, address: int, length: int) -> None:
        if self._fails("munmap"):
            raise OSError(errno.EINVAL, "munmap: refused by the test")
        super().munmap(address, length)


OPERATIONS: dict[str, tuple[str, Callable[[Scene], object]]] = {
    "reserve": ("mmap", lambda s: s.driver.reserve(4)),
    "map": ("mmap", lambda s: s.driver.map(s.span, 6, [s.spare, s.chunks[0]])),
    "unmap": ("mmap", lambda s: s.driver.unmap(s.span, 1, 2)),
    "create": ("fallocate", lambda s: s.driver.create(10)),
    "destroy": ("fallocate", lambda s: s.driver.destroy([s.spare, s.extra])),
    "release": ("munmap", lambda s: s.driver.release(s.other)),
}


@pytest.mark.parametrize("torn", [False, True])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_kernel_call_that_fails_midway_is_undone(operation: str, torn: bool) -> None:
    kind, action = OPERATIONS[operation]
    failed = 0
    while True:
        system = Failing(torn)
        driver = HostDriver(ROOM * CHUNK, CHUNK, system=system)
        scene = Scene(driver)
        others = driver.create(3)
        scene.extra = others[2]
        driver.destroy(others[:2])
        scene.other = driver.reserve(2)
        before = driver.physical_bytes(), driver.kernel_mappings
        system.arm(kind, failed + 1)
        try:
            action(scene)
        except DriverError as error:
            message = str(error)
        else:
            assert not system.spent
            system.kind = ""
            driver.close()
            break
        assert "refused by the test" in message
        failed += 1
        assert (driver.physical_bytes(), driver.kernel_mappings) == before
        for span in (scene.span, scene.other):
            covered = sum(stop - start for start, stop, _ in kernel_mappings(span))
            assert covered == span.slots * CHUNK, "a hole in a live reservation"
        driver.release(scene.other)
        driver.destroy([scene.extra])
        scene.check()
        driver.close()
    assert failed >= {"map": 2, "create": 2, "destroy": 2}.get(operation, 1)


def test_an_allocation_cut_short_by_a_signal_is_tried_again() -> None:
    system = Linux()
    answers = iter([-1, -1, 0])

    def interrupted(*arguments: int) -> int:
        ctypes.set_errno(errno.EINTR)
        return next(answers)

    system._fallocate = interrupted
    system.fallocate(3, linux.FALLOC_KEEP_SIZE, 0, 4096)
    assert next(answers, None) is None


LARGE = 2 << 20
CHUNK_64K = 64 << 10


def test_what_is_large_lies_where_large_pages_can() -> None:
    driver = HostDriver(16 << 20, CHUNK_64K)
    small = driver.create(3)
    many = driver.create(2 * LARGE // CHUNK_64K)
    spans = [driver.reserve(slots) for slots in (1, 40, 100)]
    assert all(span.address % LARGE == 0 for span in spans)
    assert many[0] * CHUNK_64K % LARGE == 0
    assert many == list(range(many[0], many[0] + len(many)))
    assert set(small).isdisjoint(many)
    driver.close()


def test_larger_pages_hold_the_same_bytes_and_no_more_memory() -> None:
    driver = HostDriver(16 << 20, CHUNK_64K)
    count = 2 * LARGE // CHUNK_64K
    span, chunks = driver.reserve(count + 4), driver.create(count)
    driver.map(span, 0, chunks)
    pattern = bytes(range(256)) * (CHUNK_64K // 256)
    for slot in range(count):
        driver.copy_in(span.address + slot * CHUNK_64K, pattern)
    driver.enlarge_pages(span, 0, count)
    for slot in range(count):
        assert driver.copy_out(span.address + slot * CHUNK_64K, CHUNK_64K) == pattern
    assert driver.physical_bytes() == count * CHUNK_64K
    # Single chunks of it can still be given back, and the others keep what they have.
    driver.unmap(span, 5, 2)
    driver.destroy(chunks[5:7])
    assert driver.physical_bytes() == (count - 2) * CHUNK_64K
    assert driver.copy_out(span.address + 7 * CHUNK_64K, CHUNK_64K) == pattern
    driver.close()


def test_a_kernel_without_large_pages_changes_nothing() -> None:
    class Old(Linux):
        def madvise(self, address: int, length: int, advice: int) -> None:
            raise OSError(errno.EINVAL, "madvise: unknown advice")

    driver = HostDriver(4 << 20, CHUNK_64K, system=Old())
    span, chunks = driver.reserve(40), driver.create(40)
    driver.map(span, 0, chunks)
    driver.copy_in(span.address, b"here")
    driver.enlarge_pages(span, 0, 40)
    assert driver.copy_out(span.address, 4) == b"here"
    driver.close()


def test_a_span_that_cannot_be_trimmed_is_not_kept() -> None:
    def reserved_pages() -> int:
        return int(Path("/proc/self/statm").read_text().split()[0])

    system = Failing()
    driver = HostDriver(4 << 20, CHUNK_64K, system=system)
    before = reserved_pages()
    system.arm("munmap", 1)
    with pytest.raises(DriverError, match="cannot reserve"):
        driver.reserve(64 * LARGE // CHUNK_64K)
    assert reserved_pages() - before < LARGE // os.sysconf("SC_PAGE_SIZE")
    driver.close()
