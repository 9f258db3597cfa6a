"""Milliseconds on the device, without what it costs to launch."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median

import torch

REPEATS = 10


def milliseconds(work: Callable[[], object], rounds: int = 5) -> float:
    """Of one `work`, of which ten follow one another in a graph."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        work()
    side.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=side):
        for _ in range(REPEATS):
            work()
    graph.replay()
    times = []
    for _ in range(rounds):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) / REPEATS)
    return median(times)
