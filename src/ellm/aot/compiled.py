"""`ellm.aot.compile`: any module, traced once, its streams and memory decided ahead of time."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from ellm.aot.cuda_graph import GraphReplay
from ellm.aot.plan import Plan
from ellm.aot.replay import Lanes, Replay, SingleLane
from ellm.aot.streams import Streams, assign, width
from ellm.aot.trace import Trace

# Several lanes must be so much faster than one to be chosen: less is noise.
WORTH = 1.02
_TRIES = 9


@dataclass(frozen=True, slots=True)
class Report:
    """What was planned, beside what could be at best.

    operations        nodes of the graph
    streams           how many the assignment uses
    synchronisations  waits between streams; no assignment with as much concurrency has fewer
    concurrency       most operations that can be under way at once
    lanes             how many replay it: 1 where measuring found more to be slower
    arena_bytes       memory planned for results, in place of one allocation each
    seconds           of one replay by number of lanes, as measured
    """

    operations: int
    streams: int
    synchronisations: int
    concurrency: int
    lanes: int
    arena_bytes: int
    seconds: Mapping[int, float]


class Compiled:
    """Call it as the module.  Shapes and dtypes are those of the example; no gradients."""

    def __init__(self, call: Callable[[tuple[Any, ...], dict[str, Any]], Any], report: Report):
        self._call = call
        self.report = report

    @torch.inference_mode()
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._call(args, kwargs)


def compile(
    module: torch.nn.Module,
    example_inputs: tuple[Any, ...],
    example_kwargs: dict[str, Any] | None = None,
    *,
    lanes: int | None = None,
) -> Compiled:
    """Trace `module` once on these inputs and replay it from then on.

    On the CPU, operations without a path between them run on up to `lanes` threads (default: as
    many as PyTorch computes with) if that is measurably faster than one after the other; with
    `lanes` given it is done in any case.  On CUDA the same holds for the streams of one captured
    graph, all of them or one; its outputs are overwritten by the next call.

    Raises ConfigError for a module that `torch.export` cannot follow (control flow that depends on
    data), and when called, for other shapes than the example's.  Source: Nimble (arXiv
    2012.02732).
    """
    args, kwargs = example_inputs, example_kwargs or {}
    trace = Trace.of(module, args, kwargs)
    graph = trace.graph()
    streams = assign(graph)
    tensors = [one for one in pytree.tree_leaves((args, kwargs)) if isinstance(one, Tensor)]
    with torch.inference_mode():
        call: Callable[..., Any]
        if any(one.is_cuda for one in tensors):
            call, seconds = _fastest_graph(trace, streams, args, kwargs, lanes)
            plan = call.plan
            chosen = plan.streams.count
        else:
            replay, chosen, seconds = _fastest(trace, streams, args, kwargs, lanes)
            plan, call = replay.plan, partial(_replay, replay)
    waits, most = streams.synchronisations, width(graph)
    return Compiled(
        call,
        Report(graph.count, streams.count, waits, most, chosen, plan.arena_bytes, seconds),
    )


def _fastest_graph(
    trace: Trace, streams: Streams, args: tuple[Any, ...], kwargs: dict[str, Any], lanes: int | None
) -> tuple[GraphReplay, dict[int, float]]:
    """The captured graph to replay, and seconds by number of streams if it was measured."""
    line = Streams.single(len(trace.operations))
    wanted = [line, streams] if lanes is None else [line if lanes == 1 else streams]
    graphs = {
        one.count: GraphReplay(Plan.of(trace, one, args, kwargs), args, kwargs) for one in wanted
    }
    if len(graphs) == 1:
        return next(iter(graphs.values())), {}
    seconds = _measured({count: graph.seconds for count, graph in graphs.items()})
    return graphs[_worth(seconds, streams.count)], seconds


def _replay(replay: Replay, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    slots = replay.plan.begin(args, kwargs)
    replay.run(slots)
    return replay.plan.end(slots)


def _fastest(
    trace: Trace, streams: Streams, args: tuple[Any, ...], kwargs: dict[str, Any], lanes: int | None
) -> tuple[Replay, int, dict[int, float]]:
    most = min(lanes or torch.get_num_threads(), streams.count)
    line = Streams.single(len(trace.operations))
    single = SingleLane(Plan.of(trace, line, args, kwargs))
    if most < 2:
        return single, 1, {}
    several = Lanes(Plan.of(trace, streams, args, kwargs), most)
    if lanes is not None:
        return several, most, {}
    seconds = _measured(
        {1: partial(_time, single, args, kwargs), most: partial(_time, several, args, kwargs)}
    )
    if _worth(seconds, most) == most:
        return several, most, seconds
    several.close()
    return single, 1, seconds


def _time(replay: Replay, args: tuple[Any, ...], kwargs: dict[str, Any]) -> float:
    """Seconds of all operations; what a module changes stays as it is."""
    slots = replay.plan.begin(args, kwargs)
    start = time.perf_counter()
    replay.run(slots)
    return time.perf_counter() - start


def _measured(ways: Mapping[int, Callable[[], float]]) -> dict[int, float]:
    """Seconds by number of lanes, in turn."""
    times: dict[int, list[float]] = {lanes: [] for lanes in ways}
    for _ in range(_TRIES):
        for lanes, way in ways.items():
            times[lanes].append(way())
    return {lanes: median(found) for lanes, found in times.items()}


def _worth(seconds: Mapping[int, float], most: int) -> int:
    """How many lanes are chosen: `most`, or one."""
    return most if seconds[1] > WORTH * seconds[most] else 1
