"""A plan as one captured CUDA graph over as many streams as it has.

A captured fork must join again: every side stream begins by waiting for the first one, and the
first one ends by waiting for all.  What one stream makes and another reads is kept alive until the
capture ends, because the caching allocator would hand its block out again on the stream that made
it.  (Nimble, section 4.1; PyTorch's notes on CUDA graphs.)
"""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from ellm.aot.plan import Plan

# Of one measurement: more than one, or it would be of the launch.
_REPLAYS = 10


class GraphReplay:
    """Inputs are copied to where they were captured; outputs are the same tensors every time."""

    def __init__(self, plan: Plan, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.plan = plan
        self._inputs = pytree.tree_map_only(Tensor, torch.clone, (args, kwargs))
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._slots = self._capture()
            self._outputs = plan.end(self._slots)

    def __call__(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self.plan.begin(args, kwargs)
        mine, theirs = pytree.tree_leaves(self._inputs), pytree.tree_leaves((args, kwargs))
        for place, value in zip(mine, theirs, strict=True):
            if isinstance(place, Tensor):
                place.copy_(value)
        self._graph.replay()
        return self._outputs

    def seconds(self) -> float:
        """How long a replay takes; what the module changes is as before."""
        changed = {self._slots[target] for target, _ in self.plan.trace.writes}
        before = [(one, one.clone()) for one in changed]
        self._graph.replay()
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(_REPLAYS):
            self._graph.replay()
        torch.cuda.synchronize()
        taken = (time.perf_counter() - start) / _REPLAYS
        for one, value in before:
            one.copy_(value)
        return taken

    def _capture(self) -> list[Any]:
        plan = self.plan
        slots = plan.begin(*self._inputs)
        first = torch.cuda.current_stream()
        streams = [first]
        streams += [torch.cuda.Stream() for _ in range(1, plan.streams.count)]  # type: ignore[no-untyped-call]
        for side in streams[1:]:
            side.wait_stream(first)
        awaited = {before for waits in plan.streams.waits for before in waits}
        events: dict[int, torch.cuda.Event] = {}
        for node, step in enumerate(plan.steps):
            stream = streams[plan.streams.stream[node]]
            for before in plan.streams.waits[node]:
                stream.wait_event(events[before])
            with torch.cuda.stream(stream):
                step(slots)
            if node in awaited:
                events[node] = torch.cuda.Event()  # type: ignore[no-untyped-call]
                events[node].record(stream)
        for side in streams[1:]:
            first.wait_stream(side)
        return slots
