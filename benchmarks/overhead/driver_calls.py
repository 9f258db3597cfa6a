"""What one call of the host driver costs."""

from __future__ import annotations

import ctypes
from collections import defaultdict
from collections.abc import Callable
from statistics import median
from time import perf_counter

from ellm.core.units import KIB, MIB
from ellm.memory.drivers.host import HostDriver

SIZES = (64 * KIB, 2 * MIB)
CALLS = ("create", "map", "touch", "unmap", "destroy", "map, per chunk of a run")
RUN = 16


def measure(chunk_bytes: int, times: int) -> dict[str, dict[str, float]]:
    """Microseconds, p50 and p99, of each of CALLS over `times` chunks, one at a time.

    "touch" writes every byte of a chunk that has just been mapped.
    """
    driver = HostDriver(2 * RUN * chunk_bytes, chunk_bytes)
    span = driver.reserve(2 * RUN)
    samples: dict[str, list[float]] = defaultdict(list)

    def clocked(name: str, call: Callable[[], object], share: int = 1) -> object:
        start = perf_counter()
        answer = call()
        samples[name].append(1e6 * (perf_counter() - start) / share)
        return answer

    for _ in range(times):
        start = perf_counter()
        chunks = driver.create(1)
        samples["create"].append(1e6 * (perf_counter() - start))
        clocked("map", lambda made=chunks: driver.map(span, 1, made))
        clocked("touch", lambda: ctypes.memset(span.address + chunk_bytes, 1, chunk_bytes))
        clocked("unmap", lambda: driver.unmap(span, 1, 1))
        clocked("destroy", lambda made=chunks: driver.destroy(made))
    run = driver.create(RUN)
    for _ in range(max(1, times // RUN)):
        clocked("map, per chunk of a run", lambda: driver.map(span, 1, run), RUN)
        driver.unmap(span, 1, RUN)
    driver.close()
    return {name: _percentiles(samples[name]) for name in CALLS}


def _percentiles(values: list[float]) -> dict[str, float]:
    ordered = sorted(values)
    last = min(len(ordered) - 1, int(0.99 * len(ordered)))
    return {"p50_us": round(median(ordered), 2), "p99_us": round(ordered[last], 2)}


def table(driver: dict[str, dict[str, dict[str, float]]]) -> str:
    """Microseconds, p50 / p99, by call and chunk size, as Markdown."""
    rows = ["| | " + " | ".join(driver) + " |", "| --- |" + " --- |" * len(driver)]
    for call in CALLS:
        cells = [
            f"{calls[call]['p50_us']:.3g} / {calls[call]['p99_us']:.3g}"
            for calls in driver.values()
        ]
        rows.append(f"| {call} | " + " | ".join(cells) + " |")
    return "\n".join(rows)
