"""Everything a user may set when starting an engine."""

from __future__ import annotations

from dataclasses import dataclass

from ellm.core.config import KvLayout
from ellm.core.errors import ConfigError
from ellm.core.units import parse_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineArgs:
    """The model and its limits, in the names of vLLM's flags where one exists.

    `model` is a Hugging Face directory, a hub id, or a bundled name (`ellm-base`, `ellm-draft`).
    `memory` is an absolute budget in bytes, or text as 4GiB; None takes what the machine has free
    less a margin.  Text in `memory`, `chunk_bytes` and `kv_layout` is read on construction.
    `max_model_len` None takes the model's own context; 0 (typed `auto`) takes the longest that
    fits the budget.  `dtype` is auto, float32, bfloat16 or float16.  `threads` None takes the
    machine's cores.

    Raises ConfigError for text that cannot be read.
    """

    model: str = "ellm-base"
    tokenizer: str | None = None
    served_model_name: str | None = None
    dtype: str = "auto"
    device: str = "cpu"
    max_model_len: int | None = None
    max_num_seqs: int = 64
    max_num_batched_tokens: int = 2048
    max_num_queued_reqs: int | None = None
    memory: str | int | None = None
    kv_layout: str | KvLayout = KvLayout.CONTIGUOUS
    block_size: int = 16
    chunk_bytes: str | int | None = None
    enable_prefix_caching: bool = False
    chat_template: str | None = None
    seed: int = 0
    threads: int | None = None

    def __post_init__(self) -> None:
        for name in ("memory", "chunk_bytes"):
            if (size := getattr(self, name)) is not None:
                object.__setattr__(self, name, parse_bytes(size))
        object.__setattr__(self, "kv_layout", _layout(self.kv_layout))


def _layout(layout: str | KvLayout) -> KvLayout:
    try:
        return KvLayout(layout)
    except ValueError as error:
        names = ", ".join(known.value for known in KvLayout)
        raise ConfigError(f"kv_layout must be one of {names}, not {layout!r}") from error
