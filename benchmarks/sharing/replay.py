"""A recorded hour through the real scheduler, KV manager and pool, in virtual time.

    scaled down by SCALE          512 tokens, a block of the trace ──▶ 16 tokens, a block here
    not scaled                    when requests come, and how many run at once

One step stands for SCALE decoding steps of STEP seconds, a chunk for 2 MiB: 512 tokens in one of
the 32 layers of a model with TOKEN_BYTES of KV a token.  Copies are as fast as PCI Express.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

from ideal import Event

from ellm.cli.bench.question import Question
from ellm.core.config import MemoryConfig, SchedulerConfig
from ellm.core.layers import LayerSpec
from ellm.core.request import Request
from ellm.core.sampling import SamplingParams
from ellm.core.units import KIB
from ellm.engine.engine import Engine
from ellm.scheduling.coefficients import Coefficients
from ellm.sim.activations import Activations
from ellm.sim.clock import VirtualClock
from ellm.sim.replay import SimModel, simulated_engine

SCALE = 32
STEP = 0.025
BLOCK = 16
CHUNK = 32 * KIB
LAYER = LayerSpec(kv_heads=8, head_dim=64, itemsize=2)
BLOCK_BYTES = BLOCK * LAYER.token_bytes
# Llama-3-8B keeps 128 KiB a token; copies of these go at 25 GB/s.
TOKEN_BYTES = 128 * KIB
BANDWIDTH = 25e9 * LAYER.token_bytes / (SCALE * TOKEN_BYTES)
SEQUENCES = 64


@dataclass(frozen=True, slots=True)
class Replayed:
    """What came of it; `events` are when requests started and ended, in that order."""

    figures: Mapping[str, Any]
    events: Sequence[Event]


class Replay:
    """`blocks` of memory, `below` blocks in the tier, with or without a prefix cache."""

    def __init__(self, items: Sequence[Question], blocks: int, below: int, caches: bool) -> None:
        self.items = items
        self.clock = VirtualClock()
        model = SimModel(
            weight_bytes=0,
            layers=(LAYER,),
            cost=Coefficients.even(step=SCALE * STEP),
            activations=Activations(LAYER.token_bytes, LAYER.token_bytes),
            tier_bandwidth=BANDWIDTH,
        )
        memory = MemoryConfig(
            budget=blocks * BLOCK_BYTES,
            chunk_bytes=CHUNK,
            block_size=BLOCK,
            prefix_caching=caches,
            offload_bytes=below * BLOCK_BYTES,
        )
        longest = max(len(item.prompt) + item.output_len for item in items)
        limits = SchedulerConfig(max_num_seqs=SEQUENCES, max_model_len=longest)
        self.engine: Engine = simulated_engine(model, memory, limits, self.clock)
        self.waited: dict[int, float] = {}
        self.events: list[Event] = []

    def run(self) -> Replayed:
        start = perf_counter()
        coming = 0
        running: list[int] = []
        while coming < len(self.items) or self.engine.has_work:
            now = self.clock.now()
            while coming < len(self.items) and self.items[coming].arrival <= now:
                self._submit(coming)
                coming += 1
            if self.engine.has_work:
                self._step()
                running.append(self.engine.snapshot().running)
            else:
                self.clock.advance(max(0.0, self.items[coming].arrival - now))
        self.engine.check()
        return Replayed(self._figures(perf_counter() - start, running), self.events)

    def _submit(self, number: int) -> None:
        item = self.items[number]
        params = SamplingParams(max_tokens=item.output_len, temperature=0, ignore_eos=True)
        name, prompt = str(number), tuple(item.prompt)
        self.engine.submit(
            Request(request_id=name, prompt=prompt, params=params, arrival=item.arrival)
        )

    def _step(self) -> None:
        for news in self.engine.step():
            number = int(news.request_id)
            item = self.items[number]
            own = (
                -(-(len(item.prompt) + item.output_len) // BLOCK) - (len(item.prompt) - 1) // BLOCK
            )
            if number not in self.waited:
                self.waited[number] = self.clock.now() - item.arrival
                self.events.append(Event(number, True, own))
            if news.finish_reason is not None:
                self.events.append(Event(number, False, own))
        assert self.engine.obstacle is None, self.engine.obstacle

    def _figures(self, seconds: float, running: list[int]) -> dict[str, Any]:
        stats, snapshot = self.engine.stats, self.engine.snapshot()
        waited = sorted(self.waited.values())
        tier = snapshot.tier
        return {
            "prompt_tokens": sum(len(item.prompt) for item in self.items),
            "cached_tokens": stats.cached_tokens,
            "fetched_tokens": stats.fetched_tokens,
            "mean_ttft": round(sum(waited) / len(waited), 3),
            "p99_ttft": round(waited[int(0.99 * len(waited))], 3),
            "running": round(sum(running) / len(running), 2),
            "steps": stats.steps,
            "preemptions": stats.preemptions,
            "stores": 0 if tier is None else tier.stats.stores,
            "stored_bytes": 0 if tier is None else tier.stats.store_bytes,
            "loads": 0 if tier is None else tier.stats.loads,
            "refusals": 0 if tier is None else tier.stats.refusals,
            "wall_seconds": round(seconds, 1),
        }
