"""How much memory there is to serve from, and how finely to cut it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ellm.core.errors import BudgetError
from ellm.core.units import GIB, KIB, MIB, ceil_div, format_bytes

_SMALLEST_CHUNK, _LARGEST_CHUNK = 64 * KIB, 2 * MIB


def available_bytes(root: Path = Path("/")) -> int:
    """Bytes the machine would give this process now without swapping.

    The least of MemAvailable and what each control group above the process (v1 or v2) still
    allows; a group's inactive page cache counts as free, since the kernel drops it first.  `root`
    is where /proc and /sys are looked for.
    """
    rooms = [_read_table(root / "proc/meminfo", "MemAvailable:") * KIB]
    rooms += _group_rooms(root)
    return max(0, min(rooms))


def machine_bytes(root: Path = Path("/")) -> int:
    """Bytes of memory that the machine has, in use or free."""
    return _read_table(root / "proc/meminfo", "MemTotal:") * KIB


def margin_bytes(available: int) -> int:
    """What `default_budget` leaves of `available` to the process itself and to its neighbours.

    A tenth, and at least 1 GiB: interpreter, libraries and the framework's own scratch.
    """
    return max(GIB, available // 10)


def default_budget(available: int) -> int:
    """What is available less the margin.  Raises BudgetError if that leaves nothing."""
    margin = margin_bytes(available)
    if available <= margin:
        raise BudgetError(
            f"{format_bytes(available)} of memory are free, less than the margin of "
            f"{format_bytes(margin)}: free some, or say how much to use with --memory"
        )
    return available - margin


def choose_chunk_bytes(useful_bytes: int, max_mappings: int | None = None) -> int:
    """The smallest chunk, from 64 KiB to 2 MiB, that keeps host memory within the kernel's limit.

    Every chunk of `useful_bytes` may need a kernel mapping of its own, and together they shall
    need fewer than half of `max_mappings`; None reads vm.max_map_count.
    """
    if max_mappings is None:
        max_mappings = int(Path("/proc/sys/vm/max_map_count").read_text())
    size = _SMALLEST_CHUNK
    while size < _LARGEST_CHUNK and 2 * ceil_div(useful_bytes, size) >= max_mappings:
        size *= 2
    return size


def _group_rooms(root: Path) -> Iterator[int]:
    """Room under the limit of each control group that holds the process, innermost first.

    The path a process sees is the host's in a container that mounts its own group as the root:
    what is not there is skipped, and the root of the mount is always looked at.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            mount, names = root / "sys/fs/cgroup", ("memory.max", "memory.current")
            cache = "inactive_file"
        elif "memory" in controllers.split(","):
            mount = root / "sys/fs/cgroup/memory"
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes")
            cache = "total_inactive_file"
        else:
            continue
        group = mount / path.strip("/")
        while True:
            limit, usage = (_read_number(group / name) for name in names)
            if limit is not None and usage is not None:
                yield limit - usage + _read_table(group / "memory.stat", cache)
            if group == mount:
                break
            group = group.parent


def _read_number(path: Path) -> int | None:
    """The number in a file; None where there is no such file, or it says there is no limit."""
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    return None if text == "max" else int(text)


def _read_table(path: Path, name: str) -> int:
    """The number that follows `name` in a file of one name and number a line; 0 if none does."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return 0
    for line in lines:
        words = line.split()
        if len(words) > 1 and words[0] == name:
            return int(words[1])
    return 0
