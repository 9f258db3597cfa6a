"""How `LLM` and `AsyncLLM` are constructed: the fields of `EngineArgs` as keywords."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable

from ellm.core.config import ElasticPart, KvLayout, MemoryMode, SchedulingPolicy
from ellm.core.errors import ConfigError
from ellm.llm.args import EngineArgs, LoadFormat
from ellm.llm.build import Progress
from ellm.llm.remedies import explain_unknown


class Configured(ABC):
    """One model in this process.

    The options are those of `EngineArgs`, which may also be given whole in place of the model.
    `progress(done, total)` follows the loading of weights, in bytes.  Raises ModelError,
    ConfigError or BudgetError, saying what to do.
    """

    model_name: str
    max_model_len: int

    @explain_unknown
    def __init__(
        self,
        model: str | EngineArgs = "ellm-base",
        *,
        tokenizer: str | None = None,
        served_model_name: str | None = None,
        load_format: str | LoadFormat = LoadFormat.AUTO,
        dtype: str = "auto",
        device: str = "cpu",
        max_model_len: int | None = None,
        max_num_seqs: int = 64,
        max_num_batched_tokens: int | None = None,
        enable_chunked_prefill: bool = True,
        max_num_queued_reqs: int | None = None,
        scheduling_policy: str | SchedulingPolicy | None = None,
        ttft_slo: str | float | None = None,
        tpot_slo: str | float | None = None,
        memory: str | int | None = None,
        memory_mode: str | MemoryMode = MemoryMode.ELASTIC,
        ablate: Iterable[str | ElasticPart] = (),
        kv_offloading_size: str | int | None = None,
        kv_offloading_dir: str | None = None,
        kv_layout: str | KvLayout = KvLayout.CONTIGUOUS,
        block_size: int = 16,
        chunk_bytes: str | int | None = None,
        enable_prefix_caching: bool = True,
        chat_template: str | None = None,
        seed: int = 0,
        threads: int | None = None,
        progress: Progress | None = None,
    ) -> None:
        args = EngineArgs(
            model=model.model if isinstance(model, EngineArgs) else str(model),
            tokenizer=tokenizer,
            served_model_name=served_model_name,
            load_format=load_format,
            dtype=dtype,
            device=device,
            max_model_len=max_model_len,
            max_num_seqs=max_num_seqs,
            max_num_batched_tokens=max_num_batched_tokens,
            enable_chunked_prefill=enable_chunked_prefill,
            max_num_queued_reqs=max_num_queued_reqs,
            scheduling_policy=scheduling_policy,
            ttft_slo=ttft_slo,
            tpot_slo=tpot_slo,
            memory=memory,
            memory_mode=memory_mode,
            ablate=ablate,
            kv_offloading_size=kv_offloading_size,
            kv_offloading_dir=kv_offloading_dir,
            kv_layout=kv_layout,
            block_size=block_size,
            chunk_bytes=chunk_bytes,
            enable_prefix_caching=enable_prefix_caching,
            chat_template=chat_template,
            seed=seed,
            threads=threads,
        )
        self._open(_only(model, args), progress)

    @abstractmethod
    def _open(self, args: EngineArgs, progress: Progress | None) -> None:
        """Load the model; called once, before anything else."""

    def __repr__(self) -> str:
        kind = type(self).__name__
        return f"{kind}({self.model_name!r}, max_model_len={self.max_model_len})"


def _only(given: str | EngineArgs, args: EngineArgs) -> EngineArgs:
    """What was given whole, where it was; then `args` must have nothing but defaults."""
    if not isinstance(given, EngineArgs):
        return args
    if args != EngineArgs(model=given.model):
        raise ConfigError("options beside EngineArgs: put them into it")
    return given
