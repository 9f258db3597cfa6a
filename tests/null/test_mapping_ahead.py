"""Rows mapped before they are needed: while there is plenty, and not of the last chunks."""

from __future__ import annotations

import pytest

from ellm.core.config import MemoryConfig, SchedulerConfig
from ellm.core.layers import LayerSpec
from ellm.core.request import Request
from ellm.core.sampling import SamplingParams
from ellm.core.units import KIB
from ellm.engine.engine import Engine
from ellm.engine.housekeeper import AHEAD_STEPS
from ellm.sim.activations import Activations
from ellm.sim.replay import SimModel, simulated_engine

CHUNK = 4 * KIB
# A chunk holds the rows of 16 tokens of its layer.
MODEL = SimModel(
    layers=(LayerSpec(2, 32, 2),) * 4,
    activations=Activations(256, 256),
)


def decoding(chunks: int) -> Engine:
    """Two sequences of 64 tokens in a pool of so many chunks, looked after while they decode."""
    engine = simulated_engine(
        MODEL,
        MemoryConfig(budget=chunks * CHUNK, chunk_bytes=CHUNK, prefix_caching=False),
        SchedulerConfig(max_num_seqs=2, max_model_len=128),
    )
    params = SamplingParams(max_tokens=64, temperature=0)
    for name in ("a", "b"):
        engine.submit(Request(request_id=name, prompt=(1,) * 64, params=params))
    for _ in range(1 + AHEAD_STEPS):
        engine.step()
    return engine


@pytest.mark.parametrize(("chunks", "ahead"), [(400, True), (49, False)])
def test_nothing_is_mapped_ahead_when_little_is_free(chunks: int, ahead: bool) -> None:
    engine = decoding(chunks)
    now = engine.snapshot()
    engine.check()
    assert now.running == 2
    assert bool(now.idle["premapped"]) is ahead, now
