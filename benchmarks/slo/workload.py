"""Requests of recorded traces, shorter by a stated factor and at a stated rate."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from ellm.cli.bench.traces import read_trace
from harness import traces

TRACES = {
    "azure": "azure/AzureLLMInferenceTrace_conv.csv",
    "mooncake": "mooncake/conversation_trace.jsonl",
}


@dataclass(frozen=True, slots=True)
class Item:
    """One request: token counts, and when it arrives in units of the mean gap."""

    prompt: int
    output: int
    arrival: float


def shapes(trace: str, count: int, divide: float) -> list[Item]:
    """The first `count` requests of a trace, prompts and answers both `divide` times shorter.

    Their own gaps, divided by the mean gap: at 2 requests a second an item arrives at half its
    `arrival`, in seconds.
    """
    rows = read_trace(traces.find(TRACES[trace]), count, seed=0)
    times = spread([row.arrival for row in rows])
    mean = times[-1] / (len(rows) - 1)
    return [
        Item(
            max(1, round(len(row.prompt) / divide)),
            max(1, round(row.output_len / divide)),
            time / mean,
        )
        for row, time in zip(rows, times, strict=True)
    ]


def spread(times: Sequence[float]) -> list[float]:
    """Arrivals with the same time stamp, evenly over the time until the next one.

    Mooncake's stamps are three seconds apart, with all that came meanwhile on one of them.
    """
    stamps = sorted(set(times))
    ends = dict(zip(stamps, [*stamps[1:], 2 * stamps[-1] - stamps[-2]], strict=True))
    counts = Counter(times)
    seen: Counter[float] = Counter()
    even = []
    for time in times:
        even.append(time + (ends[time] - time) * seen[time] / counts[time])
        seen[time] += 1
    return even
