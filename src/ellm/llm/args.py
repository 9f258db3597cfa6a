"""Everything a user may set when starting an engine."""

from __future__ import annotations

from dataclasses import dataclass

from ellm.core.config import KvLayout


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineArgs:
    """The model and its limits, in the names of vLLM's flags where one exists.

    `model` is a Hugging Face directory, a hub id, or a bundled name (`ellm-base`, `ellm-draft`).
    `memory` is an absolute budget in bytes; None takes what the machine has free less a margin.
    `max_model_len` None takes the model's own context; 0 (typed `auto`) takes the longest that
    fits the budget.  `dtype` is auto, float32, bfloat16 or float16.  `threads` None takes the
    machine's cores.
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
    memory: int | None = None
    kv_layout: KvLayout = KvLayout.CONTIGUOUS
    block_size: int = 16
    chunk_bytes: int | None = None
    enable_prefix_caching: bool = False
    chat_template: str | None = None
    seed: int = 0
    threads: int | None = None
