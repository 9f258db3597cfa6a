"""The state of an engine at one moment, as values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class MemorySnapshot:
    """Chunks of the pool by who holds them; `physical_bytes` is what the machine says.

    `used + free = total` always; `warm` of the free ones still have real memory behind them.
    """

    chunk_bytes: int
    total: int
    free: int
    warm: int
    held: Mapping[str, int]
    physical_bytes: int


@dataclass(frozen=True, slots=True)
class EngineSnapshot:
    """`kv_usage` is the share (0 to 1) of the chunks KV could have that it holds.

    `kv_waste` is the share of KV bytes mapped that hold no token (internal fragmentation).
    """

    running: int
    waiting: int
    kv_usage: float
    kv_waste: float
    memory: MemorySnapshot
