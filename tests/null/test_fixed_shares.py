"""Memory divided once: activations for the largest step there can be, and KV the rest."""

from __future__ import annotations

import pytest

from ellm.core.config import KvLayout, MemoryConfig, MemoryMode, SchedulerConfig
from ellm.core.layers import LayerSpec
from ellm.core.plan import StepShape
from ellm.core.units import KIB, MIB
from ellm.engine.assembly import assemble_memory
from ellm.engine.fit import fix_shares
from ellm.memory.drivers.null import NullDriver
from ellm.memory.pool import ChunkPool

CHUNK = 64 * KIB
LIMITS = SchedulerConfig(max_num_seqs=4, max_model_len=256, max_num_batched_tokens=32)


def price(shape: StepShape) -> int:
    """A chunk a token, and as many again for what must be gathered."""
    return CHUNK * (shape.tokens + shape.gathers * shape.longest_kv)


@pytest.mark.parametrize(
    ("layout", "aside"),
    [(KvLayout.CONTIGUOUS, 32), (KvLayout.PAGED, 32 + 256)],
)
def test_only_a_layout_that_gathers_pays_for_gathering(layout: KvLayout, aside: int) -> None:
    pool = ChunkPool(NullDriver(64 * MIB, CHUNK), 64 * MIB)
    config = MemoryConfig(chunk_bytes=CHUNK, layout=layout, mode=MemoryMode.STATIC)
    memory = assemble_memory(pool, [LayerSpec(2, 8, 2)] * 4, config, LIMITS)
    fix_shares(memory, price, LIMITS)
    assert pool.available(memory.owners.activations) == aside
    assert pool.available(memory.owners.kv) == pool.total - aside
