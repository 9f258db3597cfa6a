"""What a program allocated and freed, in order, and nothing else.

Whole numbers, one event each: n > 0 allocates n bytes, and -k frees what the k-th allocation
(counted from 1) returned.  What is still held at the end is never freed.
"""

from __future__ import annotations

import gzip
from pathlib import Path

Trace = list[int]


def save(trace: Trace, path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(gzip.compress("\n".join(map(str, trace)).encode(), mtime=0))


def load(path: Path) -> Trace:
    return [int(line) for line in gzip.decompress(path.read_bytes()).split()]


def peak_bytes(trace: Trace) -> int:
    """Most bytes held at once."""
    sizes: list[int] = []
    held = peak = 0
    for event in trace:
        if event > 0:
            sizes.append(event)
            held += event
            peak = max(peak, held)
        else:
            held -= sizes[-event - 1]
    return peak
