"""What the tier below the pool counts while it runs (names follow vLLM's kv_offload families)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class TierStats:
    """Totals since start.  Times are seconds worked at copies, waiting in line left out.

    `stores` and `loads` are copies down and up that were done, `updates` among the former;
    `refusals` are blocks that found no room.  Spills and promotions are blocks that moved between
    host memory and disk, and are counted in no other figure.
    """

    stores: int = 0
    store_bytes: int = 0
    store_time: float = 0.0
    store_failures: int = 0
    loads: int = 0
    load_bytes: int = 0
    load_time: float = 0.0
    load_failures: int = 0
    updates: int = 0
    refusals: int = 0
    cancelled: int = 0
    spills: int = 0
    spill_bytes: int = 0
    spill_failures: int = 0
    promotions: int = 0
