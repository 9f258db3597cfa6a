"""Direct or buffered I/O for the file below the pool: what each costs on this machine's disk.

Three ways to write and read one unlinked file:

    direct      O_DIRECT: disk to buffer, no page cache
    buffered    the page cache as it comes; the write ends with fdatasync
    bounded     buffered, but each window of 8 MiB is pushed out and dropped from the cache
"""

from __future__ import annotations

import argparse
import ctypes
import mmap
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from ellm.core.units import GIB, KIB, MIB, format_bytes, parse_bytes

sys.path.append(str(Path(__file__).resolve().parents[1]))

from harness.machine import busy_seconds
from harness.results import append

HERE = Path(__file__).parent
SIZES = tuple(256 * KIB << step for step in range(7))
WINDOW = 8 * MIB
WAYS = ("direct", "buffered", "bounded")
SYNC_BEFORE_WRITE_AFTER = 0x1 | 0x2 | 0x4


def push_out(file: int, start: int, count: int) -> None:
    """Write a range of the page cache to disk, wait, and drop it."""
    libc = ctypes.CDLL(None, use_errno=True)
    offset = ctypes.c_int64
    if libc.sync_file_range(file, offset(start), offset(count), SYNC_BEFORE_WRITE_AFTER):
        raise OSError(ctypes.get_errno(), "sync_file_range")
    os.posix_fadvise(file, start, count, os.POSIX_FADV_DONTNEED)


def windows(way: str, file: int, total: int, size: int, move: Callable[[int], int]) -> None:
    """Move the file's bytes piece by piece; a bounded cache is emptied a window at a time."""
    for start in range(0, total, size):
        done = move(start)
        assert done == size, (done, size)
        end = start + size
        if way == "bounded" and end % max(WINDOW, size) == 0:
            push_out(file, end - max(WINDOW, size), max(WINDOW, size))


def timed(action: Callable[[], None], total: int) -> dict[str, float]:
    """Bytes a second, and CPU seconds a GiB (system and user)."""
    before, start = os.times(), time.perf_counter()
    action()
    seconds, after = time.perf_counter() - start, os.times()
    cpu = after.user + after.system - before.user - before.system
    return {"bytes_per_second": total / seconds, "cpu_seconds_per_gib": cpu * GIB / total}


def cached_bytes() -> int:
    """What the machine's page cache holds."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("Cached:"):
            return int(line.split()[1]) * KIB
    raise AssertionError("no Cached: in /proc/meminfo")


def measure(way: str, directory: str, size: int, total: int) -> Iterator[dict[str, object]]:
    """Write the file from end to end, then read it with an empty cache."""
    flags = os.O_RDWR | os.O_TMPFILE | (os.O_DIRECT if way == "direct" else 0)
    file = os.open(directory, flags, 0o600)
    buffer = mmap.mmap(-1, size)
    buffer[:] = os.urandom(min(size, MIB)) * (size // min(size, MIB))

    def write() -> None:
        windows(way, file, total, size, lambda start: os.pwrite(file, buffer, start))
        os.fdatasync(file)

    def read() -> None:
        windows(way, file, total, size, lambda start: os.preadv(file, [buffer], start))

    try:
        for name, action in (("write", write), ("rewrite", write), ("read", read)):
            if name == "read":
                os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
            cached = cached_bytes()
            figures = timed(action, total)
            grown = cached_bytes() - cached
            yield {"way": way, "size": size, "move": name, "cache_bytes": grown, **figures}
    finally:
        os.close(file)


def table(trials: list[dict[str, object]], move: str) -> None:
    print(f"\n{move}: MiB/s (CPU seconds a GiB), medians")
    print("| piece | " + " | ".join(WAYS) + " |\n| --- |" + " --: |" * len(WAYS))
    for size in sorted({int(str(trial["size"])) for trial in trials}):
        cells = []
        for way in WAYS:
            mine = [t for t in trials if (t["way"], t["size"], t["move"]) == (way, size, move)]
            rate = statistics.median(float(str(t["bytes_per_second"])) for t in mine)
            cpu = statistics.median(float(str(t["cpu_seconds_per_gib"])) for t in mine)
            cells.append(f"{rate / MIB:.0f} ({cpu:.2f})")
        print(f"| {format_bytes(size)} | " + " | ".join(cells) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--directory", default=tempfile.gettempdir())
    parser.add_argument("--total", type=parse_bytes, default=512 * MIB, help="bytes a trial")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    trials = []
    start, busy, own = time.monotonic(), busy_seconds(), time.process_time()
    for turn in range(options.rounds):
        for size in SIZES:
            for way in WAYS[turn % 3 :] + WAYS[: turn % 3]:
                trials += measure(way, options.directory, size, options.total)
    spent = busy_seconds() - busy - (time.process_time() - own)
    for move in ("write", "rewrite", "read"):
        table(trials, move)
    append(
        HERE / "results.jsonl",
        seed=0,
        trials=trials,
        total=options.total,
        other_cpus=spent / (time.monotonic() - start),
    )


if __name__ == "__main__":
    main()
