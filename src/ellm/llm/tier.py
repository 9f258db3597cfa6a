"""The tier below the pool, as the options and the device have it."""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from ellm.core.units import format_bytes
from ellm.memory.drivers.cuda_access import CudaAccess
from ellm.memory.extents import HostAccess
from ellm.memory.fences import Fence
from ellm.memory.stores.file import FileStore
from ellm.memory.stores.host import HostStore
from ellm.memory.thread_copier import ThreadCopier
from ellm.memory.tiers import Tiers

_log = logging.getLogger(__name__)


def open_tier(
    size: int,
    directory: str | None,
    device: str = "cpu",
    fence: Callable[[], Fence] | None = None,
) -> Tiers | None:
    """A file of at most `size` bytes below host memory; None for a size of 0.

    Below a GPU, at most `size` bytes of pinned host memory come before a file of as many, and
    copies wait for `fence`, which marks the moment after all work given to the device so far.
    Raises ConfigError where no such file can be made.
    """
    if not size:
        return None
    place = directory or tempfile.gettempdir()
    if Path(place).is_dir() and shutil.disk_usage(place).free < size:
        free = format_bytes(shutil.disk_usage(place).free)
        _log.warning(
            "%s may be offloaded, and %s has %s free: what does not fit is computed again",
            format_bytes(size),
            place,
            free,
        )
    if device == "cpu":
        access = HostAccess()
        return Tiers(FileStore(size, access, directory), access, ThreadCopier())
    _, _, number = device.partition(":")
    pinned = CudaAccess(int(number or 0))
    top = HostStore(size, pinned)
    return Tiers(FileStore(size, pinned, directory), pinned, ThreadCopier(), top, fence)
