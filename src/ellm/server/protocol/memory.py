"""How much memory there is, and who has it."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from ellm.obs.snapshot import MemorySnapshot


class MemoryOrder(BaseModel):
    """The body of POST /admin/memory: bytes, or text as 2GiB."""

    model_config = ConfigDict(strict=True, extra="forbid")

    memory: str | int


class MemoryReport(BaseModel):
    """All in bytes.  `owners` and `free` add up to `budget`.

    `free` is negative after the budget was lowered, until enough has been given back; `physical`
    is what the machine says is behind all of it.
    """

    budget: int
    free: int
    physical: int
    owners: dict[str, int]
    models: dict[str, dict[str, int]]

    @classmethod
    def of(cls, now: MemorySnapshot, models: dict[str, dict[str, int]]) -> MemoryReport:
        return cls(
            budget=now.total * now.chunk_bytes,
            free=now.free * now.chunk_bytes,
            physical=now.physical_bytes,
            owners={owner: count * now.chunk_bytes for owner, count in now.held.items()},
            models=models,
        )
