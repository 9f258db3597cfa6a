"""Puts the memory of one engine together: a KV store, a workspace, and their manager."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ellm.core.config import KvLayout, MemoryConfig, SchedulerConfig
from ellm.core.layers import LayerSpec
from ellm.kv.contiguous import ContiguousStore
from ellm.kv.geometry import choose_geometry
from ellm.kv.manager import KvManager
from ellm.kv.paged import PagedStore
from ellm.kv.prefix import PrefixIndex
from ellm.memory.pool import ChunkPool
from ellm.memory.virtual import VirtualTensor

# With prefix caching, finished sequences keep their address slots for a while.
KEPT_PREFIXES_PER_SEQUENCE = 4


@dataclass(frozen=True, slots=True)
class EngineMemory:
    """One pool, and the ranges an engine sees it through."""

    pool: ChunkPool
    kv: KvManager[Any]
    workspace: VirtualTensor


def assemble_memory(
    pool: ChunkPool,
    layers: Sequence[LayerSpec],
    memory: MemoryConfig,
    scheduler: SchedulerConfig,
) -> EngineMemory:
    """Address ranges for KV and activations over `pool`; no chunk is taken yet."""
    geometry = choose_geometry(layers, pool.chunk_bytes)
    # A workspace never needs more address room than there is memory.
    workspace = VirtualTensor(pool, "activations", pool.driver.reserve(pool.total))
    prefixes = PrefixIndex(memory.block_size) if memory.prefix_caching else None
    if memory.layout is KvLayout.PAGED:
        paged = PagedStore(pool, geometry, memory.block_size)
        return EngineMemory(pool, KvManager(pool, paged, workspace, prefixes), workspace)
    slots = scheduler.max_num_seqs * (1 + KEPT_PREFIXES_PER_SEQUENCE * memory.prefix_caching)
    contiguous = ContiguousStore(pool, geometry, scheduler.max_model_len, slots)
    return EngineMemory(pool, KvManager(pool, contiguous, workspace, prefixes), workspace)
