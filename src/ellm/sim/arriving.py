"""From items of a workload to requests at an engine."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator

from ellm.core.request import Request
from ellm.core.sampling import SamplingParams
from ellm.sim.devices.device import Overhead
from ellm.sim.workload.item import Item
from ellm.sim.workload.prompts import token_ids


def reaching(items: Iterable[Item], overhead: Overhead) -> Iterator[tuple[float, Item]]:
    """Items, in the order of their arrival, when they reach an engine.

    A long prompt takes longer to get there than a short one.
    """
    held: list[tuple[float, int, Item]] = []
    for number, item in enumerate(items):
        delay = overhead.request + overhead.prompt_token * item.prompt_tokens
        # Whatever comes later arrives later than this one was sent.
        while held and held[0][0] <= item.arrival:
            yield held[0][0], heapq.heappop(held)[2]
        heapq.heappush(held, (item.arrival + delay, number, item))
    while held:
        yield held[0][0], heapq.heappop(held)[2]


def request_of(item: Item, number: int, seed: int, arrival: float) -> Request:
    """The request `number`, which goes on until it has all its tokens."""
    return Request(
        request_id=str(number),
        prompt=tuple(token_ids(item, number, seed)),
        params=SamplingParams(max_tokens=item.output_tokens, temperature=0, ignore_eos=True),
        arrival=arrival,
    )
