"""The file below the pool: it has no name, keeps no page cache, and is given back."""

from __future__ import annotations

import errno
import logging
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from tier_scene import FaultyDisk

from ellm.core.errors import ConfigError
from ellm.core.units import KIB, MIB
from ellm.memory.block import BlockState
from ellm.memory.disk import Disk
from ellm.memory.extents import HostAccess
from ellm.memory.stores.file import FileStore
from ellm.memory.thread_copier import ThreadCopier
from ellm.memory.tiers import Tiers

CHILD = """
import sys, time
from ellm.memory.extents import HostAccess
from ellm.memory.stores.file import FileStore
from ellm.memory.thread_copier import ThreadCopier
from ellm.memory.tiers import Tiers

access = HostAccess()
tiers = Tiers(FileStore(1 << 30, access, sys.argv[1]), access, ThreadCopier())
buffer = access.allocate(8 << 20)
block = tiers.put([(buffer.address, buffer.size)])
tiers.wait(block)
print(tiers._base.store._disk.held(tiers._base.store._file), flush=True)
while True:
    tiers.drop(tiers.put([(buffer.address, buffer.size)]))
"""


def files_of(pid: int) -> list[str]:
    """Where the open files of a process are."""
    return [os.readlink(link) for link in Path(f"/proc/{pid}/fd").iterdir()]


def test_a_killed_process_leaves_nothing_behind(tmp_path: Path) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert child.stdout is not None
        assert int(child.stdout.readline()) >= 8 * MIB
        assert [name for name in files_of(child.pid) if name.startswith(str(tmp_path))]
        assert list(tmp_path.iterdir()) == []
    finally:
        child.send_signal(signal.SIGKILL)
        child.communicate()
    assert child.returncode == -signal.SIGKILL
    assert list(tmp_path.iterdir()) == []


class PlainDisk(FaultyDisk):
    """A file system without nameless files and without a way around the page cache."""

    def __init__(self) -> None:
        super().__init__()
        self.pushed: list[tuple[int, int]] = []

    def _open(self, directory: str, flags: int) -> int:
        if flags & os.O_DIRECT:
            raise OSError(errno.EINVAL, "no direct access here")
        return super()._open(directory, flags)

    def push_out(self, file: int, offset: int, count: int) -> None:
        self.pushed.append((offset, count))
        super().push_out(file, offset, count)


def test_without_direct_access_the_page_cache_is_emptied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.open

    def no_nameless(path: str, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(errno.EOPNOTSUPP, "no nameless files here")
        return real(path, flags, mode)

    monkeypatch.setattr(os, "open", no_nameless)
    access, disk = HostAccess(), PlainDisk()
    store = FileStore(MIB, access, str(tmp_path), disk=disk)
    assert list(tmp_path.iterdir()) == []
    tiers = Tiers(store, access, ThreadCopier())
    buffer = access.allocate(200 * KIB)
    buffer.view[:] = os.urandom(200 * KIB)
    data = bytes(buffer.view)
    block = tiers.put([(buffer.address, buffer.size)])
    assert block is not None
    tiers.wait(block)
    assert disk.pushed == [(0, 200 * KIB)]
    buffer.view[:] = bytes(200 * KIB)
    tiers.wait(tiers.get(block, [(buffer.address, buffer.size)]))
    assert bytes(buffer.view) == data
    assert disk.pushed == [(0, 200 * KIB)] * 2
    tiers.close()


def test_no_directory_is_said_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot make a file .*missing.*name another"):
        FileStore(MIB, HostAccess(), str(tmp_path / "missing"))


def test_memory_is_no_place_for_what_leaves_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class SmallWorld(Disk):
        def __init__(self, *memory: str) -> None:
            super().__init__()
            self.memory = memory

        def is_memory(self, directory: str) -> bool:
            return directory in self.memory

        def open(self, directory: str) -> tuple[int, bool]:
            return super().open(str(tmp_path))

    monkeypatch.setattr(tempfile, "gettempdir", lambda: "/usual")
    assert FileStore(MIB, HostAccess(), disk=SmallWorld()).directory == "/usual"
    assert FileStore(MIB, HostAccess(), disk=SmallWorld("/usual")).directory == "/var/tmp"
    assert caplog.text == ""
    both = SmallWorld("/usual", "/var/tmp")
    assert FileStore(MIB, HostAccess(), disk=both).directory == "/usual"
    assert "/usual is memory, not a disk" in caplog.text
    assert caplog.records[0].levelno == logging.WARNING


def test_the_kernel_knows_memory_from_disk() -> None:
    disk = Disk()
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    for _, where, kind, *_ in mounts:
        if kind in ("tmpfs", "ext4", "xfs", "overlay", "btrfs"):
            assert disk.is_memory(where) == (kind == "tmpfs"), (where, kind)


def test_a_bounded_rate_can_be_interrupted(tmp_path: Path) -> None:
    access = HostAccess()
    copier = ThreadCopier(bytes_per_second=1e-3)
    tiers = Tiers(FileStore(16 * MIB, access, str(tmp_path)), access, copier)
    buffer = access.allocate(4 * MIB)
    first, second = (tiers.put([(buffer.address, buffer.size)]) for _ in range(2))
    assert first is not None
    assert second is not None
    # At this rate neither would end in our lifetime.
    assert tiers.poll() == []
    tiers.drop(first)
    tiers.drop(second)
    assert first.state is second.state is BlockState.DROPPED
    assert tiers.stats.cancelled == 2
    tiers.close()


def test_a_bug_in_a_copy_is_not_taken_for_a_failed_disk(tmp_path: Path) -> None:
    class Broken(HostAccess):
        def read(self, extents: object, target: int) -> None:
            raise TypeError("a bug")

    access = Broken()
    tiers = Tiers(FileStore(MIB, access, str(tmp_path)), access, ThreadCopier())
    block = tiers.put([(1, 1)])
    assert block is not None
    with pytest.raises(TypeError, match="a bug"):
        tiers.wait(block)
    tiers.check()
    tiers.close()


def test_importing_the_simulator_starts_no_thread() -> None:
    program = (
        "import ellm.sim.replay, ellm.memory.tiers, threading; print(threading.active_count())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "1"
