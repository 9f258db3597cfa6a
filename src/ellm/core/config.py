"""Frozen settings, one section a part."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from ellm.core.errors import ConfigError


class KvLayout(Enum):
    """How a sequence's KV lies in the arena: one range each (vTensor), or pages (vLLM)."""

    CONTIGUOUS = "contiguous"
    PAGED = "paged"


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryConfig:
    """`budget` in bytes, None for what the machine has free less the margin.

    `chunk_bytes` None lets the budget choose.  `block_size` is tokens per page (paged layout) and
    per hashed block (prefix cache).
    """

    budget: int | None = None
    chunk_bytes: int | None = None
    layout: KvLayout = KvLayout.CONTIGUOUS
    block_size: int = 16
    prefix_caching: bool = False

    def __post_init__(self) -> None:
        size = self.chunk_bytes
        if size is not None and (size < 4096 or size & (size - 1)):
            raise ConfigError(f"chunk size must be a power of two of at least 4096, not {size}")
        if self.block_size < 1:
            raise ConfigError(f"--block-size must be at least 1, not {self.block_size}")


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulerConfig:
    """Limits of one step and of the queue.  `max_num_queued_reqs` None is unbounded."""

    max_num_seqs: int = 64
    max_num_batched_tokens: int = 2048
    max_num_queued_reqs: int | None = None
    max_model_len: int = 2048

    def __post_init__(self) -> None:
        for name in ("max_num_seqs", "max_num_batched_tokens", "max_model_len"):
            if getattr(self, name) < 1:
                flag = "--" + name.replace("_", "-")
                raise ConfigError(f"{flag} must be at least 1, not {getattr(self, name)}")
        if self.max_num_queued_reqs is not None and self.max_num_queued_reqs < 0:
            raise ConfigError("--max-num-queued-reqs must not be negative")
