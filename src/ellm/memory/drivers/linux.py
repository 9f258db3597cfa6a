"""The Linux calls that the host driver is made of.

Each raises OSError.  An object rather than functions, so that a test can make any call fail.
"""

from __future__ import annotations

import ctypes
import errno
import os
from pathlib import Path

PROT_NONE, PROT_READ_WRITE = 0x0, 0x1 | 0x2
MAP_SHARED, MAP_PRIVATE, MAP_FIXED, MAP_ANONYMOUS = 0x01, 0x02, 0x10, 0x20
MAP_NORESERVE, MAP_POPULATE = 0x4000, 0x8000
FALLOC_KEEP_SIZE, FALLOC_PUNCH_HOLE = 0x01, 0x02
MADV_COLLAPSE = 25

_MAP_FAILED = ctypes.c_void_p(-1).value


class Linux:
    """mmap and fallocate as the C library has them, and how many mappings are allowed."""

    def __init__(self) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        size, offset, flag = ctypes.c_size_t, ctypes.c_int64, ctypes.c_int
        self._mmap, self._munmap, self._fallocate = libc.mmap, libc.munmap, libc.fallocate
        self._mmap.argtypes = [ctypes.c_void_p, size, flag, flag, flag, offset]
        self._mmap.restype = ctypes.c_void_p
        self._munmap.argtypes = [ctypes.c_void_p, size]
        self._fallocate.argtypes = [flag, flag, offset, offset]
        self._madvise = libc.madvise
        self._madvise.argtypes = [ctypes.c_void_p, size, flag]

    def mmap(
        self, address: int | None, length: int, prot: int, flags: int, fd: int = -1, offset: int = 0
    ) -> int:
        result = self._mmap(address, length, prot, flags, fd, offset)
        if result == _MAP_FAILED:
            raise _error("mmap")
        return int(result)

    def munmap(self, address: int, length: int) -> None:
        if self._munmap(address, length):
            raise _error("munmap")

    def fallocate(self, fd: int, mode: int, offset: int, length: int) -> None:
        while self._fallocate(fd, mode, offset, length):
            # A signal cuts a long allocation short and undoes it; Python's handler runs later.
            if ctypes.get_errno() != errno.EINTR:
                raise _error("fallocate")

    def madvise(self, address: int, length: int, advice: int) -> None:
        if self._madvise(address, length, advice):
            raise _error("madvise")

    def max_mappings(self) -> int:
        """Mappings the kernel allows a process (vm.max_map_count)."""
        return int(Path("/proc/sys/vm/max_map_count").read_text())

    def mappings(self) -> int:
        """Mappings this process has now."""
        with open("/proc/self/maps", "rb") as maps:
            return sum(1 for _ in maps)


def _error(call: str) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, f"{call}: {os.strerror(number)}")
