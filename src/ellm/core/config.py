"""Frozen settings, one section a part."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from ellm.core.errors import ConfigError


class KvLayout(Enum):
    """How a sequence's KV lies in the arena: one range each (vTensor), or pages (vLLM)."""

    CONTIGUOUS = "contiguous"
    PAGED = "paged"


class MemoryMode(Enum):
    """Whether chunks move between KV and activations, or each has a share fixed at the start."""

    ELASTIC = "elastic"
    STATIC = "static"


class ElasticPart(Enum):
    """What elastic memory is made of; each part can be left out, to see what it is worth.

    warm      ranges of ended sequences stay mapped for the next one
    premap    the next chunk of a decoding sequence is mapped before it is needed
    defer     chunks are unmapped between steps instead of when they are given back
    prefill   the prompt tokens of a step follow memory and time instead of a constant
    park      KV goes to the tier below when a sequence must yield; without, it is computed again
    layers    a prompt may start when only some of its layers' KV fits
    """

    WARM = "warm"
    PREMAP = "premap"
    DEFER = "defer"
    PREFILL = "prefill"
    PARK = "park"
    LAYERS = "layers"


class SchedulingPolicy(Enum):
    """Who goes first: the earliest arrival, or whoever's objective is nearest."""

    FCFS = "fcfs"
    SLO = "slo"


# What vLLM takes for a step of an online server.
DEFAULT_STEP_TOKENS = 2048
ALL_PARTS = frozenset(ElasticPart)


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryConfig:
    """`budget` in bytes, None for what the machine has free less the margin.

    `chunk_bytes` None lets the budget choose.  `block_size` is tokens per page (paged layout) and
    per hashed block (prefix cache).  `offload_bytes` is the size of the tier below, 0 for none.
    `parts` are the elastic parts in use; a static memory has none.
    """

    budget: int | None = None
    chunk_bytes: int | None = None
    layout: KvLayout = KvLayout.CONTIGUOUS
    block_size: int = 16
    prefix_caching: bool = False
    mode: MemoryMode = MemoryMode.ELASTIC
    offload_bytes: int = 0
    parts: frozenset[ElasticPart] = ALL_PARTS

    def __post_init__(self) -> None:
        size = self.chunk_bytes
        if size is not None and (size < 4096 or size & (size - 1)):
            raise ConfigError(f"chunk size must be a power of two of at least 4096, not {size}")
        if self.block_size < 1:
            raise ConfigError(f"--block-size must be at least 1, not {self.block_size}")
        if self.offload_bytes < 0:
            raise ConfigError("--kv-offloading-size must not be negative")

    def uses(self, part: ElasticPart) -> bool:
        return self.mode is MemoryMode.ELASTIC and part in self.parts


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulerConfig:
    """Limits of one step and of the queue, and who goes first.

    `max_num_batched_tokens` None lets every step choose from what memory and time allow (elastic
    prefill).  Without `chunked_prefill` a prompt is computed in one step.  `max_num_queued_reqs`
    None is unbounded.  `ttft_slo` and `tpot_slo` are seconds, None for no objective.
    """

    max_num_seqs: int = 64
    max_num_batched_tokens: int | None = None
    chunked_prefill: bool = True
    max_num_queued_reqs: int | None = None
    max_model_len: int = 2048
    policy: SchedulingPolicy = SchedulingPolicy.FCFS
    ttft_slo: float | None = None
    tpot_slo: float | None = None

    @property
    def step_tokens(self) -> int:
        """Most tokens a step may be planned for where memory and time do not decide."""
        if not self.chunked_prefill:
            return max(self.max_model_len, self.max_num_batched_tokens or 0)
        return self.max_num_batched_tokens or DEFAULT_STEP_TOKENS

    def __post_init__(self) -> None:
        for name in ("max_num_seqs", "max_num_batched_tokens", "max_model_len"):
            value = getattr(self, name)
            if value is not None and value < 1:
                flag = "--" + name.replace("_", "-")
                raise ConfigError(f"{flag} must be at least 1, not {getattr(self, name)}")
        if self.max_num_queued_reqs is not None and self.max_num_queued_reqs < 0:
            raise ConfigError("--max-num-queued-reqs must not be negative")
