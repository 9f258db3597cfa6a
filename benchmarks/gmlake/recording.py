"""The exact memory events of a PyTorch program that runs on the CPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from torch._C._profiler import _EventType
from torch.profiler import ProfilerActivity, profile
from traces import Trace


def record(program: Callable[[], None], left_out: str) -> Trace:
    """Every allocation and free of `program`, temporaries inside operators included.

    Left out is what was allocated within `torch.profiler.record_function(left_out)`, and what was
    freed but allocated before.  Autograd runs backward for the CPU in the thread that asks for it,
    so the order is the program's own.
    """
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        program()
    assert profiler.profiler is not None
    roots = profiler.profiler.kineto_results.experimental_event_tree()
    events = sorted(_flat(roots), key=lambda event: int(event.start_time_ns))
    ranges = [(e.start_time_ns, e.end_time_ns) for e in events if e.name == left_out]
    return _encode([e for e in events if e.tag == _EventType.Allocation], ranges)


def _flat(roots: Sequence[Any]) -> Iterator[Any]:
    stack = list(roots)
    while stack:
        event = stack.pop()
        yield event
        stack.extend(event.children)


def _encode(events: Sequence[Any], ranges: Sequence[tuple[int, int]]) -> Trace:
    trace: Trace = []
    live: dict[int, int] = {}
    outside: set[int] = set()
    count = passed = 0
    for event in events:
        address, size = event.extra_fields.ptr, event.extra_fields.alloc_size
        while passed < len(ranges) and ranges[passed][1] < event.start_time_ns:
            passed += 1
        if size > 0:
            assert address not in live, hex(address)
            assert address not in outside, hex(address)
            if passed < len(ranges) and ranges[passed][0] <= event.start_time_ns:
                outside.add(address)
            else:
                count += 1
                live[address] = count
                trace.append(size)
        elif address in live:
            trace.append(-live.pop(address))
        else:
            outside.discard(address)
    return trace
