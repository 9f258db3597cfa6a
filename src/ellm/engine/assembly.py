"""Puts the memory of one engine together: a KV store, a workspace, and their manager."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ellm.core.config import ElasticPart, KvLayout, MemoryConfig, MemoryMode, SchedulerConfig
from ellm.core.layers import LayerSpec
from ellm.kv.below import Below
from ellm.kv.contiguous import ContiguousStore
from ellm.kv.geometry import choose_geometry, most_pinned
from ellm.kv.layered import LayeredLot
from ellm.kv.manager import KvManager
from ellm.kv.paged import PagedStore
from ellm.kv.prefix import PrefixIndex
from ellm.kv.room import Owners, Room
from ellm.memory.balloon import Balloon
from ellm.memory.driver import Span
from ellm.memory.pool import ChunkPool
from ellm.memory.tiers import Tiers
from ellm.memory.virtual import VirtualTensor
from ellm.obs.snapshot import TierSnapshot

# Sequences that have ended keep their address slots while their prefixes are kept.
KEPT_PREFIXES_PER_SEQUENCE = 16


@dataclass(frozen=True, slots=True)
class EngineMemory:
    """One pool, and the ranges an engine sees it through; `arena` are the addresses of KV."""

    config: MemoryConfig
    pool: ChunkPool
    balloon: Balloon
    owners: Owners
    kv: KvManager[Any]
    workspace: VirtualTensor
    arena: Span
    tiers: Tiers | None = None

    @property
    def bytes_below(self) -> int:
        """Bytes there may be in the tier below."""
        return 0 if self.tiers is None else self.tiers.capacity

    @property
    def tier(self) -> TierSnapshot | None:
        if self.tiers is None:
            return None
        return TierSnapshot(self.tiers.capacity, self.tiers.used, self.tiers.stats)

    def dispose(self) -> None:
        """Give every chunk back to the pool, and the address ranges to the machine."""
        self.kv.dispose()
        self.workspace.clear()
        self.pool.unmaps.flush()
        for span in (self.arena, self.workspace.span):
            self.pool.driver.release(span)

    def close(self) -> None:
        """Close the tier and the driver, and all memory with them."""
        if self.tiers is not None:
            self.tiers.close()
        self.pool.driver.close()

    @property
    def holdings(self) -> Mapping[str, int]:
        """Chunks the engine holds, by kind."""
        kinds = ("weights", "activations", "kv")
        return {kind: self.pool.held(getattr(self.owners, kind)) for kind in kinds}


def assemble_memory(
    pool: ChunkPool,
    layers: Sequence[LayerSpec],
    memory: MemoryConfig,
    scheduler: SchedulerConfig,
    *,
    balloon: Balloon | None = None,
    tiers: Tiers | None = None,
    name: str = "",
) -> EngineMemory:
    """Address ranges for KV and activations over `pool`; no chunk is taken yet.

    Engines that share a pool share its `balloon` and its `tiers` too, and have different names.
    """
    balloon = balloon or Balloon(pool)
    owners = Owners.of(name)
    # A workspace never needs more address room than there is memory.
    workspace = VirtualTensor(pool, owners.activations, pool.driver.reserve(pool.total))
    prefixes = PrefixIndex(memory.block_size) if memory.prefix_caching else None
    warm = memory.uses(ElasticPart.WARM)
    fixed = memory.mode is MemoryMode.STATIC
    layered = (
        tiers is not None
        and memory.uses(ElasticPart.LAYERS)
        and memory.layout is KvLayout.CONTIGUOUS
    )
    token_bytes = sum(layer.token_bytes for layer in layers)
    geometry = choose_geometry(layers, pool.chunk_bytes, most_pinned(token_bytes, layered))
    store: Any
    if memory.layout is KvLayout.PAGED:
        store = PagedStore(pool, geometry, memory.block_size, owners.kv, warm)
    else:
        slots = scheduler.max_num_seqs * (1 + KEPT_PREFIXES_PER_SEQUENCE * memory.prefix_caching)
        context = scheduler.max_model_len
        store = ContiguousStore(pool, geometry, context, slots, owners.kv, warm)
    room = Room(pool, balloon, owners, workspace, fixed)
    below: Below[Any] | None = None
    if tiers is not None:
        below = Below(room, store, tiers, LayeredLot(store, tiers) if layered else None)
    kv: KvManager[Any] = KvManager(room, store, prefixes, below)
    return EngineMemory(memory, pool, balloon, owners, kv, workspace, store.span, tiers)
