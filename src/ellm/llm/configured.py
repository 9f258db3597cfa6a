"""How `LLM` and `AsyncLLM` are constructed: the fields of `EngineArgs` as keywords."""

from __future__ import annotations

from abc import ABC, abstractmethod

from ellm.core.config import KvLayout
from ellm.core.errors import ConfigError
from ellm.llm.args import EngineArgs
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
        dtype: str = "auto",
        device: str = "cpu",
        max_model_len: int | None = None,
        max_num_seqs: int = 64,
        max_num_batched_tokens: int = 2048,
        max_num_queued_reqs: int | None = None,
        memory: str | int | None = None,
        kv_layout: str | KvLayout = KvLayout.CONTIGUOUS,
        block_size: int = 16,
        chunk_bytes: str | int | None = None,
        enable_prefix_caching: bool = False,
        chat_template: str | None = None,
        seed: int = 0,
        threads: int | None = None,
        progress: Progress | None = None,
    ) -> None:
        whole = model if isinstance(model, EngineArgs) else None
        args = EngineArgs(
            model=model.model if isinstance(model, EngineArgs) else model,
            tokenizer=tokenizer,
            served_model_name=served_model_name,
            dtype=dtype,
            device=device,
            max_model_len=max_model_len,
            max_num_seqs=max_num_seqs,
            max_num_batched_tokens=max_num_batched_tokens,
            max_num_queued_reqs=max_num_queued_reqs,
            memory=memory,
            kv_layout=kv_layout,
            block_size=block_size,
            chunk_bytes=chunk_bytes,
            enable_prefix_caching=enable_prefix_caching,
            chat_template=chat_template,
            seed=seed,
            threads=threads,
        )
        if whole is not None and args != EngineArgs(model=whole.model):
            raise ConfigError("options beside EngineArgs: put them into it")
        self._open(whole or args, progress)

    @abstractmethod
    def _open(self, args: EngineArgs, progress: Progress | None) -> None:
        """Load the model; called once, before anything else."""

    def __repr__(self) -> str:
        kind = type(self).__name__
        return f"{kind}({self.model_name!r}, max_model_len={self.max_model_len})"
