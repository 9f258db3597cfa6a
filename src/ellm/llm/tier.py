"""The tier below the pool, as the options and the device have it."""

from __future__ import annotations

from ellm.memory.extents import HostAccess
from ellm.memory.stores.file import FileStore
from ellm.memory.thread_copier import ThreadCopier
from ellm.memory.tiers import Tiers


def open_tier(size: int, directory: str | None) -> Tiers | None:
    """A file of at most `size` bytes below host memory; None for a size of 0.

    Raises ConfigError where no such file can be made.
    """
    if not size:
        return None
    access = HostAccess()
    return Tiers(FileStore(size, access, directory), access, ThreadCopier())
