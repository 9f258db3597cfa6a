"""The state of an engine at one moment, as values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ellm.obs.tiers import TierStats


@dataclass(frozen=True, slots=True)
class MemorySnapshot:
    """Chunks of the pool by who holds them; `physical_bytes` is what the machine says.

    `used + free = total` always; `warm` of the free ones still have real memory behind them.
    After the budget was lowered `free` is negative until enough has been given back.
    """

    chunk_bytes: int
    total: int
    free: int
    warm: int
    held: Mapping[str, int]
    physical_bytes: int


@dataclass(frozen=True, slots=True)
class TierSnapshot:
    """Bytes below the pool: how many there may be, how many there are, and what has moved."""

    capacity: int
    used: int
    stats: TierStats


@dataclass(frozen=True, slots=True)
class EngineSnapshot:
    """`kv_usage` is the share (0 to 1) of the chunks KV could have that it holds.

    `kv_waste` is the share of KV bytes mapped that hold no token (internal fragmentation).
    `parked` sequences wait with their KV below.  `owners` are the chunks this engine holds by
    kind: weights, activations, kv.  `idle` are those of them it could give back, by kind: premapped
    (rows mapped ahead), workspace (activations the last step did not need), warm (mapped ranges of
    ended sequences), leaving (rows on their way below), prefixes (kept for requests that begin
    alike).  `running_bytes` are the KV of running sequences, what they share counted for each.
    """

    running: int
    waiting: int
    kv_usage: float
    kv_waste: float
    memory: MemorySnapshot
    parked: int = 0
    owners: Mapping[str, int] = field(default_factory=dict)
    idle: Mapping[str, int] = field(default_factory=dict)
    tier: TierSnapshot | None = None
    running_bytes: int = 0
