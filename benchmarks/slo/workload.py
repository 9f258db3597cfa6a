"""Requests of recorded traces, shorter by a stated factor and at a stated rate."""

from __future__ import annotations

from ellm.sim.workload.arrivals import evened, hastened
from ellm.sim.workload.item import Item
from ellm.sim.workload.traces import read_trace
from harness import traces

TRACES = {
    "azure": "azure/AzureLLMInferenceTrace_conv.csv",
    "mooncake": "mooncake/conversation_trace.jsonl",
}


def shapes(trace: str, count: int, divide: float) -> list[Item]:
    """The first `count` requests of a trace, prompts and answers both `divide` times shorter.

    Their own gaps, divided by the mean gap: at 2 requests a second an item arrives at half its
    `arrival`, in seconds.
    """
    items = evened(read_trace(traces.find(TRACES[trace]), count, scale=1 / divide).items)
    return hastened(items, items[-1].arrival / (len(items) - 1))
