"""A recorded step: a captured CUDA graph, and the table of sequences that it reads.

Addresses of weights, KV planes and workspace never move, and a graph replays right after the
chunks behind them were mapped anew.  What a step is about it reads from fixed places: tokens,
positions and rows from the room of the inputs, sequences from a table that `run` writes first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from ellm.kernels.cuda.table import SequenceTable
from ellm.kernels.ops import Segment

# Replays of what is timed, of which the shortest counts.
_TRIES = 5


class Graph:
    """kernels.ops.Program of a captured step that reads `tables`."""

    def __init__(self, graph: torch.cuda.CUDAGraph, tables: Sequence[SequenceTable]) -> None:
        self._graph = graph
        self._tables = tuple(tables)

    def run(self, rows: int, segments: Sequence[Segment]) -> None:
        for table in self._tables:
            table.write(segments)
        self._graph.replay()


class Recorder:
    """Captures on a stream of its own, in one pool of memory for all graphs."""

    def __init__(self) -> None:
        self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        self._pool = torch.cuda.graph_pool_handle()
        # PyTorch takes no pool twice whose graphs are all gone: this one stays.
        # Not in inference mode: what all graphs share would be of no use outside it.
        with torch.inference_mode(False):
            nothing = torch.zeros(1, device="cuda")
            self._first = self.capture(lambda: _touch(nothing))

    def warm(self, work: Callable[[], None]) -> None:
        """Do `work` where it will be captured: kernels are compiled, libraries take their room."""
        outside = torch.cuda.current_stream()
        self._stream.wait_stream(outside)
        try:
            with torch.cuda.stream(self._stream):
                work()
        finally:
            outside.wait_stream(self._stream)

    def capture(self, work: Callable[[], None]) -> torch.cuda.CUDAGraph:
        """The kernels that `work` launches; none is run."""
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.stream(self._stream):
            # Copies of KV go on meanwhile, in threads and on streams of their own.
            graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
            try:
                work()
            except BaseException:
                with suppress(RuntimeError):  # it says the same, in other words
                    graph.capture_end()
                raise
            graph.capture_end()
        return graph

    def time(self, work: Callable[[], None]) -> float:
        """Milliseconds that `work` takes when it is replayed; waits until that is known."""
        self.warm(work)
        graph = self.capture(work)
        moments: list[Any] = []
        with torch.cuda.stream(self._stream):
            graph.replay()
            for _ in range(_TRIES + 1):
                moments.append(torch.cuda.Event(enable_timing=True))  # type: ignore[no-untyped-call]
                moments[-1].record()
                graph.replay()
        self._stream.synchronize()
        return min(float(begin.elapsed_time(end)) for begin, end in pairwise(moments))


def _touch(x: Tensor) -> None:
    x.zero_()
