"""Everything a user may set when starting an engine."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import TypeVar

from ellm.core.config import (
    ALL_PARTS,
    ElasticPart,
    KvLayout,
    MemoryConfig,
    MemoryMode,
    SchedulerConfig,
    SchedulingPolicy,
)
from ellm.core.errors import ConfigError
from ellm.core.units import parse_bytes, parse_seconds

Choice = TypeVar("Choice", bound=Enum)


class LoadFormat(Enum):
    """Where weights are from: the model's files, or random numbers that need none."""

    AUTO = "auto"
    DUMMY = "dummy"


PROCESS_OPTIONS = (
    "device",
    "threads",
    "memory",
    "memory_mode",
    "chunk_bytes",
    "kv_offloading_size",
    "kv_offloading_dir",
)
"""Options that all models of a process share."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineArgs:
    """The model and its limits, in the names of vLLM's flags where one exists.

    `model` is a Hugging Face directory, a hub id, or a bundled name (`ellm-base`, `ellm-draft`).
    `load_format` dummy makes weights up by `seed`: only config.json is read, and the shapes that
    are bundled (`llama-3.1-8b`) will do too.
    `memory` is an absolute budget in bytes, or text as 4GiB; None takes what the machine has free
    less a margin.  `memory_mode` static fixes the shares of KV and activations from a step of
    `max_num_batched_tokens`, as other engines do; `ablate` leaves elastic parts out by name.
    `kv_offloading_size` bytes of KV may go to a file in `kv_offloading_dir`.  `ttft_slo` and
    `tpot_slo` are seconds, or text as 500ms; with one of them the policy is slo unless another is
    named.  Sizes, times and choices given as text are read on construction.
    `max_num_batched_tokens` None lets memory and time decide.  `max_model_len` None takes the
    model's own context; 0 (typed `auto`) takes the longest that
    fits the budget.  `dtype` is auto, float32, bfloat16 or float16.  `threads` None takes the
    machine's cores.

    Raises ConfigError for text that cannot be read.
    """

    model: str = "ellm-base"
    tokenizer: str | None = None
    served_model_name: str | None = None
    load_format: str | LoadFormat = LoadFormat.AUTO
    dtype: str = "auto"
    device: str = "cpu"
    max_model_len: int | None = None
    max_num_seqs: int = 64
    max_num_batched_tokens: int | None = None
    enable_chunked_prefill: bool = True
    max_num_queued_reqs: int | None = None
    scheduling_policy: str | SchedulingPolicy | None = None
    ttft_slo: str | float | None = None
    tpot_slo: str | float | None = None
    memory: str | int | None = None
    memory_mode: str | MemoryMode = MemoryMode.ELASTIC
    ablate: Iterable[str | ElasticPart] = ()
    kv_offloading_size: str | int | None = None
    kv_offloading_dir: str | None = None
    kv_layout: str | KvLayout = KvLayout.CONTIGUOUS
    block_size: int = 16
    chunk_bytes: str | int | None = None
    enable_prefix_caching: bool = True
    chat_template: str | None = None
    seed: int = 0
    threads: int | None = None

    def __post_init__(self) -> None:
        for name in ("memory", "chunk_bytes", "kv_offloading_size"):
            if (size := getattr(self, name)) is not None:
                object.__setattr__(self, name, parse_bytes(size))
        for name in ("ttft_slo", "tpot_slo"):
            if (time := getattr(self, name)) is not None:
                object.__setattr__(self, name, parse_seconds(time))
        kinds: dict[str, type[Enum]] = {
            "kv_layout": KvLayout,
            "memory_mode": MemoryMode,
            "load_format": LoadFormat,
        }
        for name, kind in kinds.items():
            object.__setattr__(self, name, _choose(name, kind, getattr(self, name)))
        policy = self.scheduling_policy
        if policy is None:
            stated = self.ttft_slo is not None or self.tpot_slo is not None
            policy = SchedulingPolicy.SLO if stated else SchedulingPolicy.FCFS
        policy = _choose("scheduling_policy", SchedulingPolicy, policy)
        object.__setattr__(self, "scheduling_policy", policy)
        parts = frozenset(_choose("ablate", ElasticPart, part) for part in self.ablate)
        object.__setattr__(self, "ablate", parts)

    def limits(self, positions: int) -> SchedulerConfig:
        """What a step and the queue may be, for a model trained for so many positions.

        The context is the model's where the longest that fits was asked for.  Raises ConfigError.
        """
        if (self.max_model_len or 0) > positions:
            raise ConfigError(
                f"--max-model-len {self.max_model_len} is beyond the {positions} positions that "
                f"the model was trained for: set {positions} or less"
            )
        assert isinstance(self.scheduling_policy, SchedulingPolicy)
        assert not isinstance(self.ttft_slo, str)
        assert not isinstance(self.tpot_slo, str)
        return SchedulerConfig(
            max_num_seqs=self.max_num_seqs,
            max_num_batched_tokens=self.max_num_batched_tokens,
            chunked_prefill=self.enable_chunked_prefill,
            max_num_queued_reqs=self.max_num_queued_reqs,
            max_model_len=self.max_model_len or positions,
            policy=self.scheduling_policy,
            ttft_slo=self.ttft_slo,
            tpot_slo=self.tpot_slo,
        )

    @property
    def memory_config(self) -> MemoryConfig:
        """As it was asked for: budget and chunks may still be left open."""
        assert not isinstance(self.memory, str)
        assert not isinstance(self.chunk_bytes, str)
        assert not isinstance(self.kv_offloading_size, str)
        assert isinstance(self.memory_mode, MemoryMode)
        assert isinstance(self.kv_layout, KvLayout)
        return MemoryConfig(
            budget=self.memory,
            chunk_bytes=self.chunk_bytes,
            layout=self.kv_layout,
            block_size=self.block_size,
            prefix_caching=self.enable_prefix_caching,
            mode=self.memory_mode,
            offload_bytes=self.kv_offloading_size or 0,
            parts=ALL_PARTS - frozenset(self.ablate),
        )

    @property
    def name(self) -> str:
        """What requests call the model."""
        return self.served_model_name or self.model


def _choose(name: str, kind: type[Choice], value: object) -> Choice:
    try:
        return kind(value)
    except ValueError as error:
        names = ", ".join(str(known.value) for known in kind)
        raise ConfigError(f"{name} must be one of {names}, not {value!r}") from error
