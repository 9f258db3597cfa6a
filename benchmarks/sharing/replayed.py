"""The requests through the real engine, over memory that only keeps accounts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from blocks import Turn
from ellm.core.config import KvLayout, MemoryConfig, SchedulerConfig
from ellm.core.layers import LayerSpec
from ellm.core.request import Request
from ellm.core.sampling import SamplingParams
from ellm.core.units import KIB
from ellm.scheduling.cost import Coefficients
from ellm.sim.clock import VirtualClock
from ellm.sim.replay import SimModel, simulated_engine

# Tokens in a block, and in a chunk: what Llama-3-8B has in 2 MiB.
SIZE = 16
CHUNK = 64 * KIB
# One layer stands for all; a token takes 4 KiB.
MODEL = SimModel(
    layers=(LayerSpec(16, 64, 2),),
    cost=Coefficients(token=5e-5, attention=0.0, kv_token=0.0, sequence=1e-4, step=5e-3),
    activation_bytes_per_token=64,
    activation_bytes_per_row=64,
    tier_bandwidth=2e9,
)


@dataclass(frozen=True, slots=True)
class Replayed:
    """`found` is the share of prompt tokens that were not computed."""

    found: float
    fetched: float
    preemptions: int


def replay(
    turns: Sequence[Turn], blocks: int, below: int, layout: KvLayout, caching: bool = True
) -> Replayed:
    """All of them at their times, with memory for so many blocks, and room below for others."""
    context = max(turn.prompt + turn.output for turn in turns)
    memory = MemoryConfig(
        budget=blocks * CHUNK,
        chunk_bytes=CHUNK,
        layout=layout,
        block_size=SIZE,
        prefix_caching=caching,
        offload_bytes=below * CHUNK,
    )
    limits = SchedulerConfig(max_num_seqs=64, max_model_len=context)
    clock = VirtualClock()
    engine = simulated_engine(MODEL, memory, limits, clock)
    coming = 0
    while coming < len(turns) or engine.has_work:
        while coming < len(turns) and turns[coming].arrival <= clock.now():
            engine.submit(_request(coming, turns[coming]))
            coming += 1
        before = clock.now()
        engine.step()
        if clock.now() == before and coming < len(turns):
            clock.advance(max(0.0, turns[coming].arrival - before))
        else:
            assert clock.now() > before or not engine.has_work, "nothing moves any more"
    stats = engine.stats
    total = sum(turn.prompt for turn in turns)
    return Replayed(stats.cached_tokens / total, stats.fetched_tokens / total, stats.preemptions)


def _request(number: int, turn: Turn) -> Request:
    params = SamplingParams(max_tokens=turn.output, temperature=0, ignore_eos=True)
    return Request(
        request_id=str(number), prompt=turn.tokens(SIZE), params=params, arrival=turn.arrival
    )
