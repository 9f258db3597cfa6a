"""The system calls that a file below the pool is made of.

Each raises OSError.  An object rather than functions, so that a test can make any call fail.
"""

from __future__ import annotations

import ctypes
import errno
import os
import tempfile
from collections.abc import Sequence

_PUNCH_HOLE = 0x01 | 0x02
_PUSH_OUT = 0x1 | 0x2 | 0x4
_TMPFS, _RAMFS = 0x01021994, 0x858458F6


class Disk:
    """Files without a name, as Linux has them.

    A name would outlive a process that is killed; a file without one is gone with its process.
    """

    def __init__(self) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        flag, offset = ctypes.c_int, ctypes.c_int64
        self._fallocate, self._sync = libc.fallocate, libc.sync_file_range
        self._fallocate.argtypes = [flag, flag, offset, offset]
        self._sync.argtypes = [flag, offset, offset, ctypes.c_uint]
        self._statfs = libc.statfs
        self._statfs.argtypes = [ctypes.c_char_p, ctypes.c_void_p]

    def open(self, directory: str) -> tuple[int, bool]:
        """A new nameless file, and whether it goes around the page cache."""
        for direct in (os.O_DIRECT, 0):
            try:
                return self._open(directory, os.O_RDWR | os.O_CLOEXEC | direct), bool(direct)
            except OSError as error:
                if not direct or error.errno != errno.EINVAL:
                    raise
        raise AssertionError("unreachable")

    def _open(self, directory: str, flags: int) -> int:
        try:
            return os.open(directory, flags | os.O_TMPFILE, 0o600)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT):
                raise
        # This file system knows no nameless files: take the name away at once.
        file, path = tempfile.mkstemp(prefix="ellm-", dir=directory)
        os.close(file)
        try:
            return os.open(path, flags)
        finally:
            os.unlink(path)

    def is_memory(self, directory: str) -> bool:
        """Whether files in `directory` live in memory."""
        answer = ctypes.create_string_buffer(256)
        if self._statfs(os.fsencode(directory), answer):
            return False
        return int.from_bytes(answer.raw[:4], "little") in (_TMPFS, _RAMFS)

    def write(self, file: int, data: memoryview, offset: int) -> None:
        """All of `data` at `offset`."""
        done = 0
        while done < len(data):
            done += os.pwrite(file, data[done:], offset + done)

    def read(self, file: int, into: memoryview, offset: int) -> None:
        """As many bytes as `into` has room for, from `offset`."""
        done = 0
        while done < len(into):
            count = os.preadv(file, [into[done:]], offset + done)
            if not count:
                raise OSError(errno.EIO, f"the file ends at {offset + done}")
            done += count

    def push_out(self, file: int, offset: int, count: int) -> None:
        """Write what the page cache holds of a range to the disk, and drop it there."""
        if self._sync(file, offset, count, _PUSH_OUT):
            raise _error("sync_file_range")
        os.posix_fadvise(file, offset, count, os.POSIX_FADV_DONTNEED)

    def punch(self, file: int, ranges: Sequence[tuple[int, int]]) -> None:
        """Give back the disk behind each range (offset, bytes), which then reads as zeros."""
        for offset, count in ranges:
            while self._fallocate(file, _PUNCH_HOLE, offset, count):
                if ctypes.get_errno() != errno.EINTR:
                    raise _error("fallocate")

    def truncate(self, file: int) -> None:
        """Give back all of the disk behind the file."""
        os.ftruncate(file, 0)

    def held(self, file: int) -> int:
        """Bytes of disk behind the file."""
        return os.fstat(file).st_blocks * 512

    def left(self, file: int) -> int:
        """Bytes that the file system would still give."""
        answer = os.fstatvfs(file)
        return answer.f_bavail * answer.f_frsize

    def close(self, file: int) -> None:
        os.close(file)


def _error(call: str) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, f"{call}: {os.strerror(number)}")
